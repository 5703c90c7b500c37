// Nothing to show: why, and what to do.
import { Icon } from "headrace_shared";

export default {
  components: { Icon },
  props: { icon: String, title: String, text: String, command: String, action: String, links: { type: Array, default: () => [] }, level: { type: String, default: "h2" } },
  template: `
    <div class="hr-notice">
      <Icon :name="icon || 'empty'" />
      <component :is="level === 'h1' ? 'h1' : 'h2'">{{ title }}</component>
      <p v-if="text"><bdi>{{ text }}</bdi></p>
      <pre v-if="command"><code>{{ command }}</code></pre>
      <ul v-if="links.length" class="hr-notice-links"><li v-for="link in links"><a :href="link.href"><bdi>{{ link.text }}</bdi></a></li></ul>
      <button v-if="action" type="button" class="hr-button hr-button-main" @click="$emit('act')">{{ action }}</button>
    </div>`,
};
