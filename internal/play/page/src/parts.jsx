// Small parts that several panes use.
import { useEffect, useRef, useState } from 'preact/hooks'
import { openPlace } from './state.js'

// Place opens the editor at a file:line.
export const Place = ({ place }) => place && <button class='place' onClick={() => openPlace(place)}>{place}</button>

export const Pill = ({ kind, children }) => <span class={`pill pill-${kind}`}>{children}</span>

// tone is the color of a result.
export function tone (result) {
  if (result === 'assigned') return 'good'
  if (result === 'rejected') return 'warn'
  if (result === 'held') return 'hold'
  return result ? 'bad' : 'plain'
}

export const Pane = ({ id, title, actions, children, label }) => (
  <section class='pane' id={`pane-${id}`} aria-label={label ?? title}>
    <header class='pane-head'><h2>{title}</h2><div class='actions'>{actions}</div></header>
    {children}
  </section>
)

// Scroll is the part of a pane that scrolls; it takes the focus, so that keys scroll it.
export const Scroll = ({ label, children, class: more = '' }) => (
  <div class={`scroll ${more}`} tabIndex={0} role='region' aria-label={label}>{children}</div>
)

// Modal is a dialog; the browser keeps the focus in it and closes it with Escape.
export function Modal ({ title, onClose, children, wide }) {
  const dialog = useRef()
  useEffect(() => {
    dialog.current.showModal()
  }, [])
  return (
    <dialog class={wide ? 'wide' : ''} ref={dialog} aria-label={title} onClose={onClose} onClick={(event) => event.target === dialog.current && dialog.current.close()}>
      <header><h2>{title}</h2><button class='quiet' aria-label='Close' onClick={() => dialog.current.close()}>✕</button></header>
      {children}
    </dialog>
  )
}

// Ask is a dialog with one field.
export function Ask ({ title, label, value = '', hint, action, onClose, onAnswer, children }) {
  const [text, setText] = useState(value)
  const [problem, setProblem] = useState('')
  const submit = async (event) => {
    event.preventDefault()
    try {
      await onAnswer(text.trim())
      onClose()
    } catch (err) {
      setProblem(err.message)
    }
  }
  return (
    <Modal title={title} onClose={onClose}>
      <form onSubmit={submit}>
        <label class='field'><span>{label}</span><input value={text} onInput={(event) => setText(event.target.value)} autofocus /></label>
        {hint && <p class='muted'>{hint}</p>}
        {children}
        {problem && <p class='text-bad' role='alert'>{problem}</p>}
        <div class='row end'><button class='primary'>{action}</button></div>
      </form>
    </Modal>
  )
}

export const JSONText = ({ value }) => <code class='value'>{JSON.stringify(value) ?? 'undefined'}</code>

export const count = (n) => (n ?? 0).toLocaleString('en-US')

// shortHub leaves out the domain that all hubs share.
export const shortHub = (hub) => hub?.replace(/\.azure-devices\.net$/, '') ?? ''
