// What became of the lines: marks in the margin, the reason at the end of the line, and the coverage of tests. The marks
// move along with the text until the next answer replaces them.
import { RangeSet, StateEffect, StateField } from '@codemirror/state'
import { Decoration, EditorView, GutterMarker, WidgetType, gutter } from '@codemirror/view'

const words = { gave: 'gave', not_held: 'failed', unreached: 'not reached', erred: 'error', warned: 'note' }
const signs = { gave: '●', not_held: '✕', unreached: '·', erred: '!', warned: '!' }

class StateMarker extends GutterMarker {
  constructor (state, why) {
    super()
    this.state = state
    this.why = why
  }

  eq (other) { return this.state === other.state && this.why === other.why }

  toDOM () {
    const mark = document.createElement('span')
    mark.className = `mark mark-${this.state}`
    mark.textContent = signs[this.state]
    mark.title = this.why ? `${words[this.state]}: ${this.why}` : words[this.state]
    return mark
  }
}

class Why extends WidgetType {
  constructor (state, why) {
    super()
    this.state = state
    this.why = why
  }

  eq (other) { return this.state === other.state && this.why === other.why }

  toDOM () {
    const note = document.createElement('span')
    note.className = `why why-${this.state}`
    note.textContent = this.why
    note.title = this.why
    return note
  }
}

const parts = { yes: 'covered by tests', part: 'covered by tests in part', no: 'no test reaches this line' }

class CoverageMarker extends GutterMarker {
  constructor (part) {
    super()
    this.part = part
  }

  eq (other) { return this.part === other.part }

  toDOM () {
    const bar = document.createElement('span')
    bar.className = `cover cover-${this.part}`
    bar.title = parts[this.part]
    return bar
  }
}

export const setLines = StateEffect.define()
export const setCoverage = StateEffect.define()

const ranges = (doc, list, make) => RangeSet.of(list
  .filter(({ line }) => line >= 1 && line <= doc.lines)
  .map((one) => make(one, doc.line(one.line))), true)

const marks = StateField.define({
  create: () => ({ gutter: RangeSet.empty, whys: Decoration.none, cover: RangeSet.empty }),
  update (value, transaction) {
    let { gutter, whys, cover } = value
    if (transaction.docChanged) {
      gutter = gutter.map(transaction.changes)
      whys = whys.map(transaction.changes)
      cover = cover.map(transaction.changes)
    }
    for (const effect of transaction.effects) {
      const { doc } = transaction.state
      if (effect.is(setLines)) {
        gutter = ranges(doc, effect.value, ({ state, why }, line) => new StateMarker(state, why).range(line.from))
        whys = ranges(doc, effect.value.filter(({ state, why }) => why && state !== 'unreached'), ({ state, why }, line) =>
          Decoration.widget({ widget: new Why(state, why), side: 1 }).range(line.to))
      }
      if (effect.is(setCoverage)) {
        const { covered, missed } = effect.value
        const list = [
          ...covered.map((line) => ({ line, part: missed.includes(line) ? 'part' : 'yes' })),
          ...missed.filter((line) => !covered.includes(line)).map((line) => ({ line, part: 'no' }))
        ]
        cover = ranges(doc, list, ({ part }, line) => new CoverageMarker(part).range(line.from))
      }
    }
    return { gutter, whys, cover }
  },
  provide: (field) => EditorView.decorations.from(field, ({ whys }) => whys)
})

export const lineMarks = [
  marks,
  gutter({ class: 'gutter-coverage', markers: (view) => view.state.field(marks).cover }),
  gutter({ class: 'gutter-marks', markers: (view) => view.state.field(marks).gutter, initialSpacer: () => new StateMarker('unreached', '') })
]
