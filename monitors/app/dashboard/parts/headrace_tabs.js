// Tabs: arrow keys, Home and End move between them, as screen readers expect.
export default {
  props: { tabs: Array, value: String, panel: String },
  methods: {
    choose(name) {
      if (name !== this.value) this.$emit("choose", name);
    },
    key(event) {
      const at = this.tabs.findIndex((tab) => tab.name === this.value);
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: this.tabs.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      const name = this.tabs[(to + this.tabs.length) % this.tabs.length].name;
      this.choose(name);
      document.getElementById(`tab-${name}`)?.focus();
    },
  },
  watch: {
    value: {
      immediate: true,
      handler(value) {
        this.$nextTick(() => {
          const strip = this.$refs.strip;
          const tab = document.getElementById(`tab-${value}`);
          if (strip && tab) strip.scrollLeft = tab.offsetLeft - (strip.clientWidth - tab.clientWidth) / 2;
        });
      },
    },
  },
  template: `
    <div ref="strip" class="hr-tabs" role="tablist" aria-label="Parts of this page" @keydown="key">
      <button v-for="tab in tabs" :key="tab.name" type="button" role="tab" :id="'tab-' + tab.name" class="hr-tab"
              :aria-selected="String(tab.name === value)" :aria-controls="panel" :tabindex="tab.name === value ? 0 : -1"
              @click="choose(tab.name)">{{ tab.label }}<span v-if="tab.count" class="hr-count" :class="'hr-tone-' + tab.tone">{{ tab.count }}<span class="hr-unseen"> {{ tab.counted }}</span></span></button>
    </div>`,
};
