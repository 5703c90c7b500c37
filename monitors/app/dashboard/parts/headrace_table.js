// A real table: sorted by a click on a column, with more about a row behind its first cell; on a phone a list of cards.
import { Ago, Icon, shortTime } from "headrace_shared";

let ids = 0;

export default {
  components: { Ago, Icon },
  props: { caption: String, columns: Array, rows: Array, sort: String, descending: Boolean, hidecaption: Boolean, more: String },
  data() {
    return { by: this.sort || null, down: !!this.descending, opened: {}, id: `hr-table-${++ids}` };
  },
  computed: {
    sorted() {
      if (!this.by) return this.rows;
      const value = (row) => {
        const cell = row.cells[this.by];
        return cell && typeof cell === "object" ? (cell.sort ?? cell.at ?? cell.text) : cell;
      };
      const order = (a, b) => {
        const x = value(a), y = value(b);
        if (x === y) return 0;
        if (x === null || x === undefined) return 1;
        if (y === null || y === undefined) return -1;
        const before = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true });
        return this.down ? -before : before;
      };
      return [...this.rows].sort(order);
    },
    hasDetails() {
      return this.rows.some((row) => row.details);
    },
  },
  methods: {
    shortTime,
    cell(row, column) {
      const cell = row.cells[column.key];
      return cell !== null && typeof cell === "object" ? cell : { text: cell ?? "–" };
    },
    order(column) {
      if (this.by === column.key) this.down = !this.down;
      else {
        this.by = column.key;
        this.down = column.align === "end";
      }
    },
    toggle(row) {
      this.opened[row.key] = !this.opened[row.key];
    },
    direction(column) {
      return this.by === column.key ? (this.down ? "descending" : "ascending") : "none";
    },
  },
  template: `
    <div class="hr-table-box">
      <div class="hr-table-scroll" tabindex="-1">
      <table class="hr-table" role="table">
        <caption :class="hidecaption ? 'hr-unseen' : ''">{{ caption }}</caption>
        <thead role="rowgroup">
          <tr role="row">
            <th v-for="column in columns" :key="column.key" scope="col" role="columnheader" :class="column.align === 'end' && 'hr-end'" :aria-sort="column.sort ? direction(column) : null">
              <button v-if="column.sort" type="button" class="hr-sort" @click="order(column)">{{ column.label }}<Icon :name="by !== column.key ? 'none' : down ? 'down' : 'up'" v-show="by === column.key" /></button>
              <template v-else>{{ column.label }}</template>
            </th>
            <th v-if="hasDetails" scope="col" role="columnheader"><span class="hr-unseen">More</span></th>
          </tr>
        </thead>
        <tbody role="rowgroup">
          <template v-for="row in sorted" :key="row.key">
          <tr role="row" :class="row.tone && 'hr-edge-' + row.tone">
            <component v-for="(column, index) in columns" :key="column.key" :is="column.header ? 'th' : 'td'" :scope="column.header ? 'row' : null"
                :role="column.header ? 'rowheader' : 'cell'" :class="[column.align === 'end' && 'hr-end', column.mono && 'hr-mono', column.wide && 'hr-wide', cell(row, column).text === '' && 'hr-empty']" :data-label="column.label">
              <div class="hr-cell" v-for="cell in [cell(row, column)]">
                <span v-if="cell.tone && cell.text" class="hr-badge" :class="'hr-tone-' + cell.tone"><Icon :name="cell.icon" /><span>{{ cell.text }}</span></span>
                <span v-else-if="cell.at" class="hr-when"><span>{{ shortTime(cell.at) }}</span><span class="hr-sub"><Ago :at="cell.at" /></span></span>
                <Ago v-else-if="cell.ago" :at="cell.ago" />
                <a v-else-if="cell.href" :href="cell.href"><bdi>{{ cell.text }}</bdi></a>
                <button v-else-if="cell.choose !== undefined" type="button" class="hr-link" @click="$emit('choose', cell.choose)">{{ cell.text }}</button>
                <bdi v-else :title="cell.title">{{ cell.text }}</bdi>
                <span v-if="cell.bar !== undefined && cell.bar !== null" class="hr-bar" aria-hidden="true"><span :style="{ width: 100 * cell.bar + '%' }"></span></span>
                <span v-if="cell.sub" class="hr-sub"><bdi>{{ cell.sub }}</bdi></span>
              </div>
            </component>
            <td v-if="hasDetails" role="cell" class="hr-end hr-more">
              <button v-if="row.details" type="button" class="hr-button hr-button-icon hr-button-small" :aria-expanded="String(!!opened[row.key])" :aria-label="row.about ? 'More about ' + row.about : 'More'" @click="toggle(row)"><Icon name="open" /></button>
            </td>
          </tr>
          <tr v-if="row.details && opened[row.key]" role="row" class="hr-details">
            <td role="cell" :colspan="columns.length + 1">
              <dl><template v-for="item in row.details"><dt>{{ item.label }}</dt><dd><pre v-if="item.code">{{ item.text }}</pre><bdi v-else>{{ item.text }}</bdi></dd></template></dl>
            </td>
          </tr>
          </template>
        </tbody>
      </table>
      </div>
      <p v-if="more" class="hr-table-more"><button type="button" class="hr-button" @click="$emit('more')">{{ more }}</button></p>
    </div>`,
};
