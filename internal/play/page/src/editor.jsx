// The editors: one for the files of the workspace, and one for JSON.
import { autocompletion, closeBrackets, closeBracketsKeymap, completionKeymap } from '@codemirror/autocomplete'
import { defaultKeymap, history, historyField, historyKeymap, indentWithTab, toggleComment } from '@codemirror/commands'
import { json } from '@codemirror/lang-json'
import { HighlightStyle, bracketMatching, indentOnInput, indentUnit, syntaxHighlighting } from '@codemirror/language'
import { lintKeymap, setDiagnostics } from '@codemirror/lint'
import { unifiedMergeView } from '@codemirror/merge'
import { highlightSelectionMatches, search, searchKeymap } from '@codemirror/search'
import { Annotation, Compartment, EditorState, Prec } from '@codemirror/state'
import { EditorView, drawSelection, highlightActiveLine, highlightActiveLineGutter, keymap, lineNumbers } from '@codemirror/view'
import { tags } from '@lezer/highlight'
import { useSignalEffect } from '@preact/signals'
import { useEffect, useRef } from 'preact/hooks'
import { completeRego } from './complete.js'
import { lineMarks, setCoverage, setLines } from './marks.js'
import { regoLanguage } from './rego.js'

const nonce = document.querySelector('meta[name=csp-nonce]').content

const colors = HighlightStyle.define([
  { tag: [tags.comment], class: 'tok-comment' },
  { tag: [tags.meta], class: 'tok-meta' },
  { tag: [tags.keyword, tags.operatorKeyword], class: 'tok-keyword' },
  { tag: [tags.string], class: 'tok-string' },
  { tag: [tags.number, tags.bool, tags.null, tags.atom], class: 'tok-literal' },
  { tag: [tags.function(tags.variableName)], class: 'tok-function' },
  { tag: [tags.definition(tags.variableName)], class: 'tok-definition' },
  { tag: [tags.special(tags.variableName)], class: 'tok-root' },
  { tag: [tags.propertyName], class: 'tok-property' },
  { tag: [tags.operator, tags.punctuation, tags.bracket], class: 'tok-operator' }
])

const ours = Annotation.define() // changes that the page makes, not the person

// leave lets Tab leave the editor after Escape, also after an Escape that closed a list.
const leave = Prec.highest(keymap.of([{
  key: 'Escape',
  run: (view) => {
    view.setTabFocusMode(2000)
    return false
  }
}]))

const usual = [
  leave,
  history(), drawSelection(), indentOnInput(), bracketMatching(), closeBrackets(), highlightActiveLine(),
  highlightSelectionMatches(), search({ top: true }), syntaxHighlighting(colors), EditorState.tabSize.of(4),
  EditorState.phrases.of({ Accept: 'Mine', Reject: 'Theirs' }),
  EditorView.cspNonce.of(nonce),
  keymap.of([...closeBracketsKeymap, ...defaultKeymap, ...historyKeymap, ...searchKeymap, ...completionKeymap, ...lintKeymap])
]

function languageOf (path) {
  if (path.endsWith('.rego')) {
    return [regoLanguage(), indentUnit.of('\t'), autocompletion({ override: [completeRego], icons: false }),
      keymap.of([{ key: 'Mod-/', run: toggleComment }, indentWithTab])]
  }
  return [indentUnit.of('  '), /\.(?:json|ndjson|jsonl)$/.test(path) ? json() : []]
}

// setText replaces what differs, so that the cursor and the history stay.
function setText (view, text) {
  const old = view.state.doc.toString()
  if (old === text) return
  let start = 0
  while (start < old.length && start < text.length && old[start] === text[start]) start++
  let end = 0
  while (end < old.length - start && end < text.length - start && old[old.length - 1 - end] === text[text.length - 1 - end]) end++
  view.dispatch({
    changes: { from: start, to: old.length - end, insert: text.slice(start, text.length - end) },
    annotations: ours.of(true)
  })
}

const severity = { error: 'error', warning: 'warning', note: 'info' }

function diagnosticsOf (doc, problems) {
  return problems.map(({ line, column, endLine, endColumn, level, message, code, fix }) => {
    const first = doc.line(Math.min(Math.max(line || 1, 1), doc.lines))
    const from = Math.min(first.from + Math.max((column || 1) - 1, 0), first.to)
    const start = column ? from : first.from + first.text.search(/\S|$/)
    const last = endLine ? doc.line(Math.min(Math.max(endLine, 1), doc.lines)) : first
    const to = endColumn ? Math.min(last.from + endColumn - 1, last.to) : wordEnd(first, start)
    return { from: start, to: Math.max(start, to), severity: severity[level] ?? 'error', source: code, message: fix ? `${message}\n${fix}` : message }
  }).sort((a, b) => a.from - b.from)
}

function wordEnd (line, from) {
  const rest = line.text.slice(from - line.from)
  return from + (rest.match(/^[\w.]+/)?.[0].length || rest.length)
}

// states keep the history and the cursor of files that are not shown.
const states = new Map()

// FileEditor edits one file. It gets a new instance for each path. textOf reads the signal with the text: what a component
// gets as a property can be older than what was typed meanwhile.
export function FileEditor ({ path, textOf, problems, lines, coverage, compareWith, jump, onChange }) {
  const parent = useRef()
  const editor = useRef()
  const merging = useRef(new Compartment())
  const change = useRef(onChange)
  change.current = onChange

  useEffect(() => {
    const extensions = [
      lineNumbers(), lineMarks, highlightActiveLineGutter(), usual, languageOf(path),
      merging.current.of([]),
      EditorView.contentAttributes.of({ 'aria-label': path, spellcheck: 'false', tabindex: '0' }),
      EditorView.updateListener.of((update) => {
        if (update.docChanged && !update.transactions.some((transaction) => transaction.annotation(ours))) change.current(update.state.doc.toString())
      })
    ]
    const kept = states.get(path)
    const text = textOf()
    const state = kept?.text === text
      ? EditorState.fromJSON(kept.json, { extensions }, { history: historyField })
      : EditorState.create({ doc: text, extensions })
    const view = new EditorView({ state, parent: parent.current })
    if (kept?.text === text) view.scrollDOM.scrollTop = kept.top
    editor.current = view
    return () => {
      states.set(path, { text: view.state.doc.toString(), json: view.state.toJSON({ history: historyField }), top: view.scrollDOM.scrollTop })
      view.destroy()
    }
  }, [path])

  useSignalEffect(() => setText(editor.current, textOf() ?? ''))
  useEffect(() => {
    editor.current.dispatch({
      effects: merging.current.reconfigure(compareWith == null ? [] : unifiedMergeView({ original: compareWith, mergeControls: true, gutter: true }))
    })
  }, [path, compareWith])
  useEffect(() => {
    editor.current.dispatch(setDiagnostics(editor.current.state, diagnosticsOf(editor.current.state.doc, problems)))
  }, [path, problems])
  useEffect(() => editor.current.dispatch({ effects: setLines.of(lines) }), [path, lines])
  useEffect(() => editor.current.dispatch({ effects: setCoverage.of(coverage) }), [path, coverage])
  useEffect(() => {
    if (jump?.path !== path) return
    const { doc } = editor.current.state
    const line = doc.line(Math.min(Math.max(jump.line, 1), doc.lines))
    const at = Math.min(line.from + Math.max((jump.column ?? 1) - 1, 0), line.to)
    editor.current.dispatch({ selection: { anchor: at }, effects: EditorView.scrollIntoView(at, { y: 'center' }) })
    editor.current.focus()
  }, [path, jump])
  return <div class='editor' ref={parent} />
}

// JSONEditor edits a JSON text.
export function JSONEditor ({ label, textOf, problems, onChange }) {
  const parent = useRef()
  const editor = useRef()
  const change = useRef(onChange)
  change.current = onChange
  useEffect(() => {
    editor.current = new EditorView({
      parent: parent.current,
      state: EditorState.create({
        doc: textOf(),
        extensions: [
          usual, json(), indentUnit.of('  '), EditorView.lineWrapping,
          EditorView.contentAttributes.of({ 'aria-label': label, spellcheck: 'false', tabindex: '0' }),
          EditorView.updateListener.of((update) => {
            if (update.docChanged && !update.transactions.some((transaction) => transaction.annotation(ours))) change.current(update.state.doc.toString())
          })
        ]
      })
    })
    return () => editor.current.destroy()
  }, [])
  useSignalEffect(() => setText(editor.current, textOf()))
  useEffect(() => {
    editor.current.dispatch(setDiagnostics(editor.current.state, diagnosticsOf(editor.current.state.doc, problems)))
  }, [problems])
  return <div class='editor' ref={parent} />
}
