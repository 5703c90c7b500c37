// The bar on top of every page: the name, the way back, how fresh it is, light or dark; and the address.
import { Ago, Icon, setServerTime } from "headrace_shared";

const KEY = "headrace-theme";
const MODES = ["auto", "light", "dark"];
const NAMES = { auto: "as the system", light: "light", dark: "dark" };

function stored() {
  try {
    const mode = localStorage.getItem(KEY);
    return MODES.includes(mode) ? mode : "auto";
  } catch {
    return "auto";
  }
}

function apply(mode) {
  const root = document.documentElement;
  if (mode === "auto") root.removeAttribute("data-theme");
  else root.setAttribute("data-theme", mode);
  window.dispatchEvent(new Event("headrace-theme"));
}

// Before anything is drawn, so that nothing flashes.
apply(stored());

export default {
  components: { Ago, Icon },
  props: { now: Number, path: Array, live: Object, address: String, version: String },
  data: () => ({ mode: stored(), said: "" }),
  computed: {
    next() {
      return MODES[(MODES.indexOf(this.mode) + 1) % MODES.length];
    },
    label() {
      return `Colours: ${NAMES[this.mode]}. Change to ${NAMES[this.next]}.`;
    },
  },
  watch: {
    now: { immediate: true, handler: (now) => setServerTime(now) },
    address(address) {
      if (address && address !== location.pathname + location.search) {
        const sameTab = new URLSearchParams(address.split("?")[1] || "").get("tab") === new URLSearchParams(location.search).get("tab");
        // The state must stay: the browser's own scripts look at it.
        if (sameTab) history.replaceState(history.state, "", address);
        else history.pushState(history.state, "", address);
      }
    },
  },
  mounted() {
    this.back = () => this.$emit("back", location.search);
    this.media = window.matchMedia("(prefers-color-scheme: dark)");
    this.system = () => window.dispatchEvent(new Event("headrace-theme"));
    window.addEventListener("popstate", this.back);
    this.media.addEventListener("change", this.system);
  },
  unmounted() {
    window.removeEventListener("popstate", this.back);
    this.media.removeEventListener("change", this.system);
  },
  methods: {
    toggle() {
      this.mode = this.next;
      try {
        localStorage.setItem(KEY, this.mode);
      } catch {
        // a browser that remembers nothing
      }
      apply(this.mode);
    },
  },
  template: `
    <header class="hr-top">
      <a class="hr-skip" href="#main">Skip to the content</a>
      <div class="hr-top-in">
        <a class="hr-brand" href="/" aria-label="Headrace: all pipelines">
          <svg viewBox="0 0 32 32" aria-hidden="true" focusable="false"><path class="hr-brand-a" d="M3 11c4.300 0 4.300-4 8.700-4s4.300 4 8.600 4 4.400-4 8.700-4"/><path class="hr-brand-b" d="M3 18c4.300 0 4.300-4 8.700-4s4.300 4 8.600 4 4.400-4 8.700-4"/><path class="hr-brand-c" d="M3 25c4.300 0 4.300-4 8.700-4s4.300 4 8.600 4 4.400-4 8.700-4"/></svg>
          <span>Headrace</span>
        </a>
        <nav aria-label="Where you are" v-if="path.length">
          <ol class="hr-path">
            <li><a href="/">Pipelines</a></li>
            <li v-for="name in path" aria-current="page"><bdi>{{ name }}</bdi></li>
          </ol>
        </nav>
        <div class="hr-top-end">
          <span v-if="live" class="hr-live" :class="'hr-tone-' + live.tone"><Icon :name="live.icon" /><span>{{ live.text }}</span></span>
          <button type="button" class="hr-button hr-button-icon" :aria-label="label" :title="label" @click="toggle"><Icon :name="mode" /></button>
        </div>
      </div>
    </header>`,
};
