// What is wrong now, with what to do: open incidents and the monitor's own troubles; and what is new, read aloud.
import { Ago, Icon } from "headrace_shared";

export default {
  components: { Ago, Icon },
  props: { items: Array, said: String },
  template: `
    <div class="hr-banners">
      <section v-for="item in items" :key="item.key" class="hr-banner" :class="'hr-tone-' + item.tone"
               :role="item.tone === 'bad' ? 'alert' : 'status'">
        <Icon :name="item.icon" />
        <div class="hr-banner-body">
          <p class="hr-banner-title">
            <strong>{{ item.word }}</strong>
            <a v-if="item.href" :href="item.href"><bdi>{{ item.title }}</bdi></a><bdi v-else>{{ item.title }}</bdi>
            <span v-if="item.since" class="hr-muted">since <Ago :at="item.since" /></span>
          </p>
          <p v-if="item.text" class="hr-banner-text"><bdi>{{ item.text }}</bdi></p>
          <pre v-if="item.command"><code>{{ item.command }}</code></pre>
          <div v-if="item.progress !== undefined && item.progress !== null" class="hr-progress" role="progressbar"
               :aria-valuenow="Math.round(100 * item.progress)" aria-valuemin="0" aria-valuemax="100" aria-label="History read">
            <span :style="{ width: 100 * item.progress + '%' }"></span>
          </div>
        </div>
      </section>
      <p class="hr-unseen" role="status" aria-live="polite">{{ said }}</p>
    </div>`,
};
