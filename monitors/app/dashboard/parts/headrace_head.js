// The head of a pipeline's page: its name and state, and its key figures.
import { Ago, Icon, Spark } from "headrace_shared";

export default {
  components: { Ago, Icon, Spark },
  props: { name: String, state: Object, about: String, seen: Number, tiles: Array, old: Boolean },
  template: `
    <div class="hr-head" :class="{ 'hr-old': old }">
      <div class="hr-page-head">
        <h1><bdi>{{ name }}</bdi></h1>
        <p class="hr-badge" :class="'hr-tone-' + state.tone"><Icon :name="state.icon" /><span>{{ state.text }}</span></p>
        <p class="hr-muted hr-page-about"><bdi>{{ about }}</bdi></p>
        <p v-if="seen" class="hr-muted hr-page-seen"><Ago :at="seen" prefix="last status " /></p>
      </div>
      <dl class="hr-tiles">
        <div v-for="tile in tiles" class="hr-card hr-tile">
          <dt class="hr-label">{{ tile.label }}</dt>
          <dd>
            <span class="hr-figure">{{ tile.value }}<span v-if="tile.unit" class="hr-unit"> {{ tile.unit }}</span></span>
            <span v-if="tile.delta" class="hr-delta" :class="'hr-text-' + tile.tone"><Icon v-if="tile.icon" :name="tile.icon" />{{ tile.delta }}</span>
            <span v-if="tile.at" class="hr-delta hr-text-calm"><Ago :at="tile.at" :prefix="tile.prefix" /></span>
            <Spark v-if="tile.spark" v-bind="tile.spark" />
          </dd>
        </div>
      </dl>
    </div>`,
};
