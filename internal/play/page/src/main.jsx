// The page: the bar on top, the panes below it, and the keys.
import { effect, signal } from '@preact/signals'
import { render } from 'preact'
import './page.css'
import { Answer } from './answer.jsx'
import { Fleet } from './fleet.jsx'
import { Modal } from './parts.jsx'
import { Prove, runTests } from './prove.jsx'
import { Request } from './request.jsx'
import { Editor, Files } from './rules.jsx'
import { Share } from './share.jsx'
import { connected, dismiss, edited, narrow, notices, open, pane, report, save, start, view, workspace } from './state.js'

const mac = /Mac|iP/.test(navigator.platform)
const mod = mac ? '⌘' : 'Ctrl-'
const panes = [['files', 'Files'], ['editor', 'Editor'], ['request', 'Request'], ['answer', 'Answer'], ['prove', 'Prove'], ['fleet', 'Fleet']]
const views = [['decide', 'Decide'], ['prove', 'Prove'], ['fleet', 'Fleet']]

const dialog = signal('')
const theme = signal(localStorage.getItem('usher-play-theme') ?? 'auto')
effect(() => {
  document.documentElement.dataset.theme = theme.value
  localStorage.setItem('usher-play-theme', theme.value)
})

const targets = ['.cm-content', '[aria-current=true]', '.scroll', 'select:not(:disabled)', 'button:not(:disabled)']

// focusIn moves the focus into a pane once it is drawn.
function focusIn (name, frames = 30) {
  const shown = document.getElementById(`pane-${name}`)
  const target = targets.map((selector) => shown?.querySelector(selector)).find(Boolean)
  if (target) target.focus()
  else if (frames > 0) requestAnimationFrame(() => focusIn(name, frames - 1))
}

function go (name) {
  pane.value = name
  requestAnimationFrame(() => focusIn(name))
}

function step (back) {
  const shown = narrow.value ? panes.map(([name]) => name)
    : { decide: ['files', 'editor', 'request', 'answer'], prove: ['files', 'editor', 'prove'], fleet: ['fleet'] }[view.value]
  const focused = document.activeElement?.closest('.pane')?.id.replace('pane-', '')
  const at = shown.indexOf(focused ?? pane.value)
  const next = shown[(at + (back ? -1 : 1) + shown.length) % shown.length]
  go(next)
}

const keys = [
  [`${mod}S`, 'format and save the open file'],
  [`${mod}Enter`, 'run the tests'],
  ['F6, Shift-F6', 'the next pane, the one before'],
  ['Alt-1 … Alt-6', 'files, editor, request, answer, prove, fleet'],
  [`${mod}Space`, 'complete'],
  [`${mod}F`, 'find in the file'],
  [`${mod}/`, 'comment or uncomment'],
  ['F8', 'the next problem in the file'],
  ['Esc, then Tab', 'leave the editor'],
  ['?', 'this list']
]

addEventListener('keydown', (event) => {
  const command = mac ? event.metaKey : event.ctrlKey
  const typing = event.target.closest?.('input, textarea, select, .cm-content')
  if (command && event.key.toLowerCase() === 's') {
    event.preventDefault()
    if (open.value) save(open.value).catch(report)
  } else if (command && event.key === 'Enter') {
    event.preventDefault()
    event.stopPropagation()
    if (view.value !== 'prove') pane.value = 'prove'
    runTests()
  } else if (event.key === 'F6') {
    event.preventDefault()
    step(event.shiftKey)
  } else if (event.altKey && !command && /^Digit[1-6]$/.test(event.code)) {
    event.preventDefault()
    go(panes[Number(event.code.slice(5)) - 1][0])
  } else if (event.key === '?' && !typing) dialog.value = 'keys'
}, true)

const Keys = () => (
  <Modal title='Keys' onClose={() => { dialog.value = '' }}>
    <table class='keys'><tbody>{keys.map(([key, what]) => <tr key={key}><th scope='row'><kbd>{key}</kbd></th><td>{what}</td></tr>)}</tbody></table>
    <p class='muted'>usher {workspace.value?.version}. <a href='/licences.txt' target='_blank'>Licences of what the page is made of</a></p>
  </Modal>
)

function Bar () {
  const themes = { auto: 'light', light: 'dark', dark: 'auto' }
  const shown = narrow.value ? panes : views
  const current = narrow.value ? pane.value : view.value
  const choose = (name) => { pane.value = name === 'decide' ? 'editor' : name }
  return (
    <header class='bar'>
      <h1>usher <span>play</span></h1>
      <nav class='tabs' aria-label='Views'>
        {shown.map(([name, label]) => <button key={name} aria-current={current === name ? 'page' : undefined} onClick={() => choose(name)}>{label}</button>)}
      </nav>
      <span class='folder' title={workspace.value?.name}>{workspace.value?.name}</span>
      <span class='saved' role='status'>
        {!connected.value && <span class='text-bad'>usher play does not answer</span>}
        {connected.value && workspace.value?.readOnly && 'read-only'}
        {connected.value && (edited.value.length > 0 ? <><span class='dot' aria-hidden='true' /> {edited.value.length} unsaved</> : !workspace.value?.readOnly && 'saved')}
      </span>
      <button class='quiet' onClick={() => { dialog.value = 'share' }}>Share</button>
      <button class='quiet' onClick={() => { theme.value = themes[theme.value] }} title='Colors: as the system, light, or dark'>{{ auto: '◐ Auto', light: '☀ Light', dark: '☾ Dark' }[theme.value]}</button>
      <button class='quiet' aria-label='Keys' title='Keys (?)' onClick={() => { dialog.value = 'keys' }}>?</button>
    </header>
  )
}

const Notices = () => (
  <div class='notices' role='status'>
    {notices.value.map(({ id, level, text }) => (
      <p key={id} class={`notice ${level}`}>{text} <button class='quiet' aria-label='Dismiss' onClick={() => dismiss(id)}>✕</button></p>
    ))}
  </div>
)

function Page () {
  const layout = narrow.value ? 'one' : view.value
  const has = (name) => narrow.value ? pane.value === name : { decide: ['files', 'editor', 'request', 'answer'], prove: ['files', 'editor', 'prove'], fleet: ['fleet'] }[view.value].includes(name)
  return (
    <>
      <a class='skip' href='#pane-editor' onClick={(event) => { event.preventDefault(); go('editor') }}>Skip to the editor</a>
      <Bar />
      <main class={`panes panes-${layout}`}>
        {has('files') && <Files />}
        {has('editor') && <Editor />}
        {has('request') && <Request />}
        {has('answer') && <Answer />}
        {has('prove') && <Prove />}
        {has('fleet') && <Fleet />}
      </main>
      <Notices />
      {dialog.value === 'keys' && <Keys />}
      {dialog.value === 'share' && <Share onClose={() => { dialog.value = '' }} />}
    </>
  )
}

start()
render(<Page />, document.getElementById('page'))
