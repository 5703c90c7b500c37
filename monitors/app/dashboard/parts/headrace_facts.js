// Facts with their names, and shares as bars.
import { Ago, Icon } from "headrace_shared";

export default {
  components: { Ago, Icon },
  props: { title: String, text: String, facts: { type: Array, default: () => [] }, bars: { type: Array, default: () => [] }, legend: { type: Array, default: () => [] } },
  template: `
    <section class="hr-card hr-section">
      <h2>{{ title }}</h2>
      <p v-if="text" class="hr-muted hr-section-text"><bdi>{{ text }}</bdi></p>
      <dl v-if="facts.length" class="hr-facts">
        <div v-for="fact in facts" :key="fact.label"><dt><bdi>{{ fact.label }}</bdi><span v-if="fact.about" class="hr-sub">{{ fact.about }}</span></dt><dd :class="fact.tone && 'hr-text-' + fact.tone"><bdi :class="fact.mono && 'hr-mono'">{{ fact.value }}</bdi><span v-if="fact.unit" class="hr-unit"> {{ fact.unit }}</span></dd></div>
      </dl>
      <p v-if="legend.length" class="hr-legend hr-small" aria-hidden="true"><span v-for="item in legend"><i :class="'hr-swatch-' + item.kind"></i>{{ item.label }}</span></p>
      <ul v-if="bars.length" class="hr-bars">
        <li v-for="bar in bars" :key="bar.label">
          <span class="hr-bars-name"><bdi>{{ bar.label }}</bdi></span>
          <span class="hr-bars-value">{{ bar.value }}</span>
          <span class="hr-bars-track" aria-hidden="true">
            <span v-for="part in bar.parts" :class="'hr-swatch-' + part.kind" :style="{ width: 100 * part.share + '%' }"></span>
          </span>
        </li>
      </ul>
    </section>`,
};
