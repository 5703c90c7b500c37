// Figures over time, with drifts and warnings marked where they happened; zoom, a legend of buttons, and a table.
import { axisFigure, figure, fullTime, clockTime, Icon } from "headrace_shared";
import { echarts } from "nicegui-echart";
import { markRaw } from "vue";

const GROUP = "headrace";

function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

export default {
  components: { Icon },
  props: {
    title: String,
    text: String,
    picture: Object, // times, lines: [{label, values, tone, dashed, area, kind}], since, until
    marks: { type: Array, default: () => [] }, // {at, kind, title, detail}
    small: Boolean,
    span: String,
  },
  data: () => ({ hidden: {}, table: false, zoomed: null, tip: null }),
  computed: {
    lines() {
      return this.picture.lines.map((line, index) => ({ ...line, index, shown: !this.hidden[line.label] }));
    },
    empty() {
      return !this.picture.lines.some((line) => line.values.some((value) => value !== null));
    },
    counts() {
      const drifts = this.marks.filter((mark) => mark.kind === "drift").length;
      const warnings = this.marks.length - drifts;
      const said = [];
      if (drifts) said.push(drifts === 1 ? "1 drift" : `${drifts} drifts`);
      if (warnings) said.push(warnings === 1 ? "1 warning" : `${warnings} warnings`);
      return said.join(", ");
    },
    // The chart as a sentence, for those who can't see it.
    said() {
      const { times, lines } = this.picture;
      const parts = [];
      for (const line of lines.slice(0, this.small ? 3 : 1)) {
        let last = null, low = null, high = null;
        line.values.forEach((value, i) => {
          if (value === null) return;
          last = value;
          if (low === null || value < line.values[low]) low = i;
          if (high === null || value > line.values[high]) high = i;
        });
        if (low === null) continue;
        parts.push(`${line.label}: ${figure(last, line.kind)} now, lowest ${figure(line.values[low], line.kind)} at ${clockTime(times[low], false)}, highest ${figure(line.values[high], line.kind)} at ${clockTime(times[high], false)}`);
      }
      const body = parts.length ? parts.join("; ") : "no figures yet";
      return `${this.title} over the last ${this.span}. ${body}.` + (this.counts ? ` ${this.counts}.` : "");
    },
    tableRows() {
      const { times } = this.picture;
      const every = Math.max(1, Math.ceil(times.length / 100));
      const rows = [];
      for (let i = times.length - 1; i >= 0; i -= every) rows.push(i);
      return rows;
    },
  },
  watch: {
    span() {
      this.zoomed = null;
      this.chart?.dispatchAction({ type: "dataZoom", start: 0, end: 100 });
    },
    picture() {
      this.draw();
    },
    marks() {
      this.draw();
    },
    empty(empty) {
      if (!empty) this.$nextTick(this.begin);
    },
    table(table) {
      if (!table) this.$nextTick(() => this.chart?.resize());
    },
  },
  mounted() {
    this.redraw = () => this.draw();
    window.addEventListener("headrace-theme", this.redraw);
    if (!this.empty) this.begin();
  },
  beforeUnmount() {
    window.removeEventListener("headrace-theme", this.redraw);
    this.end();
  },
  methods: {
    figure,
    fullTime,
    begin() {
      if (this.chart || !this.$refs.canvas) return;
      const chart = echarts.init(this.$refs.canvas, null, { renderer: "canvas" });
      this.chart = markRaw(chart);
      chart.group = GROUP;
      echarts.connect(GROUP);
      chart.on("datazoom", () => this.moved());
      chart.getZr().on("mousemove", (event) => this.point(event.offsetX, event.offsetY));
      chart.getZr().on("globalout", () => (this.tip = null));
      this.observer = new ResizeObserver(() => {
        if (this.$refs.canvas?.clientWidth) chart.resize();
      });
      this.observer.observe(this.$refs.canvas);
      this.draw();
    },
    end() {
      clearTimeout(this.settled);
      this.observer?.disconnect();
      this.chart?.dispose();
      this.chart = null;
    },
    // What is seen, epoch seconds, is kept at once; the server is told when it rests, and sends finer figures for it.
    moved() {
      const found = this.chart?.getOption().dataZoom?.[0];
      if (!found || this.drawing) return;
      const { since, until } = this.picture;
      const from = since + ((until - since) * found.start) / 100, to = since + ((until - since) * found.end) / 100;
      this.zoomed = found.start > 0.5 || found.end < 99.5 ? [from, to] : null;
      this.tip = null;
      clearTimeout(this.settled);
      this.settled = setTimeout(() => this.$emit("zoom", this.zoomed), 200);
    },
    look(from, to) {
      const { since, until } = this.picture;
      const width = Math.min(until - since, Math.max(30, to - from));
      const start = Math.min(Math.max(since, from), until - width);
      const share = (at) => (100 * (at - since)) / (until - since);
      this.chart?.dispatchAction({ type: "dataZoom", start: share(start), end: share(start + width) });
    },
    step(kind) {
      const { since, until } = this.picture;
      const [from, to] = this.zoomed || [since, until];
      const width = to - from;
      if (kind === "in") this.look(from + width / 4, to - width / 4);
      if (kind === "out") this.look(from - width / 2, to + width / 2);
      if (kind === "earlier") this.look(from - width / 2, to - width / 2);
      if (kind === "later") this.look(from + width / 2, to + width / 2);
      if (kind === "all") this.look(since, until);
    },
    flip(label) {
      this.hidden[label] = !this.hidden[label];
      this.draw();
    },
    draw() {
      if (!this.chart || this.empty) return;
      const { times, since, until } = this.picture;
      const style = { text: css("--hr-text"), muted: css("--hr-muted"), border: css("--hr-border"), surface: css("--hr-surface"), drift: css("--hr-bad"), warning: css("--hr-warn"), font: getComputedStyle(document.body).fontFamily };
      const kind = this.lines[0]?.kind;
      const stamp = times.map((t) => t * 1000);
      const series = this.lines.map((line) => {
        const colour = css(`--hr-line-${line.tone}`);
        return {
          type: "line",
          id: `line-${line.index}`,
          data: line.shown ? stamp.map((t, i) => [t, line.values[i]]) : [],
          showSymbol: line.values.reduce((n, value) => n + (value !== null), 0) < 3,
          symbolSize: 6,
          sampling: "lttb",
          connectNulls: false,
          z: line.tone === "main" ? 5 : 3,
          lineStyle: { color: colour, width: line.tone === "main" ? 2 : 1.5, type: line.dashed || "solid" },
          itemStyle: { color: colour },
          areaStyle: line.area ? { color: colour, opacity: 0.1, origin: line.origin || "start" } : undefined,
          emphasis: { disabled: true },
        };
      });
      const known = this.lines.filter((line) => line.shown).flatMap((line) => line.values.filter((value) => value !== null));
      let min = Math.min(...known), max = Math.max(...known);
      if (!known.length) [min, max] = [0, 1];
      if (this.picture.zero) min = Math.min(0, min);
      const margin = (max - min || Math.abs(max) || 1) * 0.08;
      const top = this.picture.most !== undefined && this.picture.most !== null ? Math.min(this.picture.most, max + margin) : max + margin;
      const crowded = this.marks.length > 60;
      for (const [which, symbol] of [["drift", "diamond"], ["warning", "triangle"]]) {
        const found = this.marks.filter((mark) => mark.kind === which);
        series.push({
          type: "scatter",
          id: `marks-${which}`,
          yAxisIndex: 1,
          data: found.map((mark) => ({ value: [mark.at * 1000, 1], mark })),
          symbol,
          symbolSize: crowded ? 7 : 11,
          symbolOffset: [0, -4],
          itemStyle: { color: style[which], borderColor: style.surface, borderWidth: 1 },
          z: 10,
          clip: false,
          markLine: {
            silent: true,
            symbol: "none",
            animation: false,
            label: { show: false },
            lineStyle: { color: style[which], width: 1, type: which === "drift" ? "solid" : "dashed", opacity: crowded ? 0.15 : which === "drift" ? 0.55 : 0.4 },
            data: found.map((mark) => ({ xAxis: mark.at * 1000 })),
          },
        });
      }
      this.chart.setOption(
        {
          animation: false,
          useUTC: false,
          aria: { enabled: false },
          textStyle: { fontFamily: style.font, color: style.text },
          grid: { left: 8, right: 12, top: this.small ? 16 : 22, bottom: this.small ? 4 : 44, containLabel: true },
          xAxis: {
            type: "time",
            min: since * 1000,
            max: until * 1000,
            axisLine: { lineStyle: { color: style.border } },
            axisTick: { lineStyle: { color: style.border } },
            axisLabel: { color: style.muted, hideOverlap: true, fontSize: 11.5, formatter: (value) => this.tick(value) },
            splitLine: { show: false },
            axisPointer: { label: { show: false }, lineStyle: { color: style.muted, type: "solid", opacity: 0.6 } },
          },
          yAxis: [
            {
              type: "value",
              min: this.picture.zero ? 0 : min - margin,
              max: top,
              splitNumber: this.small ? 3 : 5,
              axisLabel: { color: style.muted, fontSize: 11.5, showMinLabel: this.picture.zero || false, showMaxLabel: false, formatter: (value) => axisFigure(value, kind) },
              splitLine: { lineStyle: { color: style.border, opacity: 0.8 } },
              axisPointer: { show: false },
            },
            { type: "value", min: 0, max: 1, show: false, axisLabel: { show: false }, axisPointer: { show: false } },
          ],
          dataZoom: this.small
            ? [{ type: "inside", id: "inside", xAxisIndex: 0, filterMode: "none", zoomOnMouseWheel: "ctrl", moveOnMouseWheel: false, moveOnMouseMove: false, preventDefaultMouseMove: false }]
            : [
                { type: "inside", id: "inside", xAxisIndex: 0, filterMode: "none", zoomOnMouseWheel: "ctrl", moveOnMouseWheel: false, preventDefaultMouseMove: false },
                {
                  type: "slider",
                  id: "slider",
                  xAxisIndex: 0,
                  filterMode: "none",
                  height: 18,
                  bottom: 6,
                  borderColor: "transparent",
                  backgroundColor: css("--hr-sunk"),
                  fillerColor: css("--hr-select"),
                  dataBackground: { lineStyle: { color: style.muted, opacity: 0.5 }, areaStyle: { color: style.muted, opacity: 0.12 } },
                  selectedDataBackground: { lineStyle: { color: css("--hr-line-main") }, areaStyle: { color: css("--hr-line-main"), opacity: 0.15 } },
                  handleStyle: { color: style.surface, borderColor: style.muted },
                  moveHandleSize: 0,
                  showDetail: false,
                  brushSelect: true,
                },
              ],
          series,
        },
        { replaceMerge: ["series"] },
      );
      if (this.zoomed) {
        const [from, to] = this.zoomed;
        const share = (at) => Math.min(100, Math.max(0, (100 * (at - since)) / (until - since)));
        if (share(to) - share(from) < 0.2) this.zoomed = null;
        this.drawing = true;
        this.chart.dispatchAction({ type: "dataZoom", start: this.zoomed ? share(from) : 0, end: this.zoomed ? share(to) : 100 });
        this.drawing = false;
      }
    },
    tick(value) {
      const date = new Date(value);
      const { since, until } = this.picture;
      const [from, to] = this.zoomed || [since, until];
      const time = clockTime(value / 1000, to - from < 240);
      if (to - from > 3 * 86400 || (date.getHours() === 0 && date.getMinutes() === 0)) {
        return date.toLocaleDateString("en-GB", { day: "numeric", month: "short" }) + (to - from > 3 * 86400 && (date.getHours() || date.getMinutes()) ? `\n${time}` : "");
      }
      return time;
    },
    // What is under the pointer: the nearest figures, and the marks close by.
    point(x, y) {
      if (!this.chart || !this.chart.containPixel({ gridIndex: 0 }, [x, y])) {
        this.tip = null;
        return;
      }
      const { times } = this.picture;
      const at = this.chart.convertFromPixel({ xAxisIndex: 0 }, x) / 1000;
      let low = 0, high = times.length - 1;
      while (high - low > 1) {
        const middle = (low + high) >> 1;
        if (times[middle] < at) low = middle;
        else high = middle;
      }
      const nearest = at - times[low] < times[high] - at ? low : high;
      const rows = this.lines.filter((line) => line.shown).map((line) => ({ label: line.label, tone: line.tone, dashed: line.dashed, value: figure(line.values[nearest], line.kind) }));
      const place = (time) => this.chart.convertToPixel({ xAxisIndex: 0 }, time * 1000);
      const marks = this.marks.filter((mark) => Math.abs(place(mark.at) - x) < 7);
      const width = this.chart.getWidth();
      this.tip = { left: place(times[nearest]), right: width - place(times[nearest]), flip: x > width / 2, time: fullTime(times[nearest]), rows, marks: marks.slice(-4), more: Math.max(0, marks.length - 4) };
    },
  },
  template: `
    <section class="hr-card hr-section hr-chart" :class="{ 'hr-chart-small': small }">
      <div class="hr-chart-head">
        <h2>{{ title }}</h2>
        <div class="hr-chart-tools" v-if="!empty">
          <template v-if="!small && !table">
            <button type="button" class="hr-button hr-button-icon hr-button-small" aria-label="Earlier" title="Earlier" :disabled="!zoomed" @click="step('earlier')"><Icon name="left" /></button>
            <button type="button" class="hr-button hr-button-icon hr-button-small" aria-label="Later" title="Later" :disabled="!zoomed" @click="step('later')"><Icon name="right" /></button>
            <button type="button" class="hr-button hr-button-icon hr-button-small" aria-label="Zoom in" title="Zoom in (or Ctrl and the wheel)" @click="step('in')"><Icon name="plus" /></button>
            <button type="button" class="hr-button hr-button-icon hr-button-small" aria-label="Zoom out" title="Zoom out" :disabled="!zoomed" @click="step('out')"><Icon name="minus" /></button>
            <button type="button" class="hr-button hr-button-icon hr-button-small" aria-label="Whole range" title="Whole range" :disabled="!zoomed" @click="step('all')"><Icon name="all" /></button>
          </template>
          <button type="button" class="hr-button hr-button-small" :aria-pressed="String(table)" @click="table = !table"><Icon :name="table ? 'chart' : 'table'" />{{ table ? "Show chart" : "Show as table" }}</button>
        </div>
      </div>
      <p v-if="text" class="hr-muted hr-section-text">{{ text }}</p>
      <div class="hr-legend" role="group" aria-label="Lines" v-if="!empty && !table">
        <button v-for="line in lines" :key="line.label" type="button" :aria-pressed="String(line.shown)" @click="flip(line.label)">
          <svg viewBox="0 0 22 8" aria-hidden="true" focusable="false"><path d="M0 4H22" :class="'hr-stroke-' + line.tone" :stroke-dasharray="line.dashed === 'dashed' ? '6 4' : line.dashed === 'dotted' ? '2 3' : null" /></svg>{{ line.label }}</button>
        <span v-if="marks.some((m) => m.kind === 'drift')" class="hr-legend-mark hr-text-bad"><svg viewBox="0 0 12 12" aria-hidden="true" focusable="false"><path d="M6 0 12 6 6 12 0 6Z" /></svg>drift</span>
        <span v-if="marks.some((m) => m.kind !== 'drift')" class="hr-legend-mark hr-text-warn"><svg viewBox="0 0 12 12" aria-hidden="true" focusable="false"><path d="M6 0 12 11H0Z" /></svg>warning</span>
      </div>
      <p v-if="empty" class="hr-chart-none">{{ picture.none }}</p>
      <div v-show="!empty && !table" class="hr-canvas-box">
      <div ref="canvas" class="hr-canvas" role="img" :aria-label="said" :data-marks="marks.length" :data-points="picture.times.length"></div>
      <template v-if="tip">
        <div class="hr-tip-line" :style="{ left: tip.left + 'px' }" aria-hidden="true"></div>
        <div class="hr-tip" :style="tip.flip ? { right: tip.right + 12 + 'px' } : { left: tip.left + 12 + 'px' }" aria-hidden="true">
          <p class="hr-muted">{{ tip.time }}</p>
          <p v-for="row in tip.rows" class="hr-tip-row"><svg viewBox="0 0 22 8"><path d="M0 4H22" :class="'hr-stroke-' + row.tone" :stroke-dasharray="row.dashed === 'dashed' ? '6 4' : row.dashed === 'dotted' ? '2 3' : null" /></svg><span>{{ row.label }}</span><strong>{{ row.value }}</strong></p>
          <p v-for="mark in tip.marks" class="hr-tip-mark"><strong :class="mark.kind === 'drift' ? 'hr-text-bad' : 'hr-text-warn'"><bdi>{{ mark.title }}</bdi></strong><br /><bdi>{{ mark.detail }}</bdi></p>
          <p v-if="tip.more" class="hr-muted">and {{ tip.more }} more here</p>
        </div>
      </template>
      </div>
      <div v-if="table" class="hr-table-scroll hr-chart-table" tabindex="0" role="region" :aria-label="title + ' as a table'">
        <table class="hr-table hr-table-plain">
          <caption class="hr-unseen">{{ said }}</caption>
          <thead><tr><th scope="col">time</th><th v-for="line in lines" scope="col" class="hr-end">{{ line.label }}</th></tr></thead>
          <tbody><tr v-for="i in tableRows" :key="i"><th scope="row" class="hr-mono">{{ fullTime(picture.times[i]) }}</th><td v-for="line in lines" class="hr-end">{{ figure(line.values[i], line.kind) }}</td></tr></tbody>
        </table>
      </div>
    </section>`,
};
