// The drift watches: what each sees now and saw before, as two distributions on one scale.
import { Ago, Icon, figure } from "headrace_shared";

const Distribution = {
  props: { edges: Array, now: Array, before: Array },
  computed: {
    bins() {
      const low = this.edges[0], span = this.edges[this.edges.length - 1] - low || 1;
      const most = Math.max(...this.now, ...this.before, 1e-9);
      const height = (share) => (64 * share) / most;
      return this.now.map((share, i) => ({
        x: (300 * (this.edges[i] - low)) / span,
        width: Math.max(1, (300 * (this.edges[i + 1] - this.edges[i])) / span - 1),
        now: height(share),
        before: height(this.before[i]),
      }));
    },
    outline() {
      return this.bins.map((b, i) => `${i ? "L" : "M"}${b.x.toFixed(1)} ${(68 - b.before).toFixed(1)}H${(b.x + b.width + 1).toFixed(1)}`).join("");
    },
    from() {
      return figure(this.edges[0]);
    },
    to() {
      return figure(this.edges[this.edges.length - 1]);
    },
  },
  template: `
    <figure class="hr-distribution">
      <svg viewBox="0 0 300 70" preserveAspectRatio="none" aria-hidden="true" focusable="false">
        <path class="hr-distribution-base" d="M0 68.500H300" />
        <rect v-for="b in bins" class="hr-distribution-now" :x="b.x" :y="68 - b.now" :width="b.width" :height="b.now" />
        <path class="hr-distribution-before" :d="outline" />
      </svg>
      <figcaption aria-hidden="true"><span>{{ from }}</span><span>{{ to }}</span></figcaption>
    </figure>`,
};

export default {
  components: { Ago, Icon, Distribution },
  props: { watches: Array },
  template: `
    <div>
      <p class="hr-legend hr-small"><span><i class="hr-swatch-now"></i>now</span><span><i class="hr-swatch-before"></i>before</span></p>
      <ul class="hr-watches">
        <li v-for="watch in watches" :key="watch.key">
          <article class="hr-card hr-watch" :class="'hr-edge-' + watch.state.tone" :aria-label="watch.title">
            <div class="hr-watch-head">
              <h2><bdi>{{ watch.title }}</bdi></h2>
              <p class="hr-badge" :class="'hr-tone-' + watch.state.tone"><Icon :name="watch.state.icon" /><span>{{ watch.state.text }}</span></p>
            </div>
            <p class="hr-muted hr-small"><bdi>{{ watch.about }}</bdi></p>
            <p v-if="watch.now !== '–'" class="hr-watch-means"><span class="hr-label">mean</span> <span>{{ watch.before }}</span> <Icon name="right" /><span class="hr-unseen">to</span> <strong>{{ watch.now }}</strong> <span class="hr-muted">{{ watch.change }}</span></p>
            <Distribution v-if="watch.distribution" v-bind="watch.distribution" role="img" :aria-label="watch.said" />
            <p v-else class="hr-muted hr-watch-none">{{ watch.none }}</p>
            <dl class="hr-watch-facts">
              <div v-for="fact in watch.facts"><dt>{{ fact.label }}</dt><dd><Ago v-if="fact.at" :at="fact.at" /><bdi v-else :class="fact.mono && 'hr-mono'">{{ fact.value }}</bdi></dd></div>
            </dl>
            <div v-if="watch.partitions" class="hr-squares" role="group" :aria-label="watch.title + ' by partition'">
              <button v-for="p in watch.partitions" type="button" :class="'hr-square hr-tone-' + p.tone" :title="p.title" :aria-label="p.title" :aria-pressed="String(p.shown)" @click="$emit('choose', p.partition)">{{ p.partition }}</button>
            </div>
          </article>
        </li>
      </ul>
    </div>`,
};
