// A row for each pipeline: how it stands, what it earns over doing nothing, what moves through it.
import { Ago, Icon, Spark } from "headrace_shared";

export default {
  components: { Ago, Icon, Spark },
  props: { rows: Array, summary: Array },
  template: `
    <div class="hr-overview">
      <div class="hr-page-head">
        <h1>Pipelines</h1>
        <ul class="hr-summary" aria-label="How they stand">
          <li v-for="item in summary" class="hr-badge" :class="'hr-tone-' + item.tone"><Icon :name="item.icon" /><span>{{ item.text }}</span></li>
        </ul>
      </div>
      <ul class="hr-rows">
        <li v-for="row in rows" :key="row.pipeline">
          <article class="hr-card hr-row" :class="['hr-edge-' + row.state.tone, { 'hr-old': row.old }]" :aria-label="row.pipeline">
            <div class="hr-row-name">
              <h2><a :href="row.href" class="hr-stretch"><bdi>{{ row.pipeline }}</bdi></a></h2>
              <p class="hr-badge" :class="'hr-tone-' + row.state.tone"><Icon :name="row.state.icon" /><span>{{ row.state.text }}</span></p>
              <p class="hr-muted hr-clip" :title="row.about"><bdi>{{ row.about }}</bdi></p>
            </div>
            <div class="hr-row-quality">
              <p class="hr-label">{{ row.quality.label }}</p>
              <p class="hr-figure">{{ row.quality.value }}</p>
              <p class="hr-delta" :class="'hr-text-' + row.quality.tone">
                <Icon v-if="row.quality.tone !== 'calm'" :name="row.quality.tone === 'good' ? 'up' : 'down'" />{{ row.quality.delta }}
              </p>
            </div>
            <div class="hr-row-spark">
              <Spark v-bind="row.spark" />
              <p class="hr-muted hr-small">{{ row.spark.label }}</p>
            </div>
            <dl class="hr-row-facts">
              <div v-for="fact in row.facts" :class="fact.tone && 'hr-text-' + fact.tone">
                <dt>{{ fact.label }}</dt>
                <dd>{{ fact.value }}<span v-if="fact.unit" class="hr-unit"> {{ fact.unit }}</span>
                  <span v-if="fact.at" class="hr-sub"><Ago :at="fact.at" /></span><span v-else-if="fact.sub" class="hr-sub">{{ fact.sub }}</span></dd>
              </div>
            </dl>
            <p v-if="row.say" class="hr-row-say"><bdi>{{ row.say }}</bdi> <code v-if="row.command">{{ row.command }}</code></p>
          </article>
        </li>
      </ul>
    </div>`,
};
