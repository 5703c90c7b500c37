// Choices in a row: buttons of which one or several are pressed, lists to choose from, a field to search.
import { Icon } from "headrace_shared";

let ids = 0;

export default {
  components: { Icon },
  props: { groups: Array, label: String },
  data: () => ({ id: `hr-controls-${++ids}` }),
  methods: {
    press(group, value) {
      if (group.kind === "one") {
        this.$emit("choose", { name: group.name, value });
      } else {
        const chosen = group.value.includes(value) ? group.value.filter((v) => v !== value) : [...group.value, value];
        this.$emit("choose", { name: group.name, value: chosen });
      }
    },
    typed(group, event) {
      clearTimeout(this.timer);
      const value = event.target.value;
      this.timer = setTimeout(() => this.$emit("choose", { name: group.name, value }), 250);
    },
  },
  template: `
    <div class="hr-controls" role="group" :aria-label="label">
      <template v-for="group in groups" :key="group.name">
        <div v-if="group.kind === 'one' || group.kind === 'many'" class="hr-segments" role="group" :aria-label="group.label">
          <button v-for="option in group.options" type="button" class="hr-segment" :class="option.tone && 'hr-key-' + option.tone"
                  :aria-pressed="String(group.kind === 'one' ? group.value === option.value : group.value.includes(option.value))"
                  @click="press(group, option.value)">
            <Icon v-if="option.icon" :name="option.icon" />{{ option.label }}</button>
        </div>
        <label v-else-if="group.kind === 'select'" class="hr-select">
          <span>{{ group.label }}</span>
          <select :value="group.value" @change="$emit('choose', { name: group.name, value: $event.target.value })">
            <option v-for="option in group.options" :value="option.value">{{ option.label }}</option>
          </select>
        </label>
        <label v-else-if="group.kind === 'search'" class="hr-search">
          <Icon name="search" /><span class="hr-unseen">{{ group.label }}</span>
          <input type="search" :value="group.value" :placeholder="group.label" maxlength="100" autocomplete="off" spellcheck="false"
                 @input="typed(group, $event)" />
        </label>
        <button v-else-if="group.kind === 'button'" type="button" class="hr-button" @click="$emit('choose', { name: group.name, value: true })">
          <Icon v-if="group.icon" :name="group.icon" />{{ group.label }}</button>
        <p v-else class="hr-controls-text" role="status">{{ group.label }}</p>
      </template>
    </div>`,
};
