// What the page knows. Views read signals; only the functions here write them.
import { batch, computed, effect, signal } from '@preact/signals'
import { Failed, aborted, get, post, put } from './api.js'

const decideAfter = 120 // ms without a key
const checkAfter = 300

export const workspace = signal(null)
export const choices = signal({ enrollments: [], hubs: [], attestations: [], reprovision: [], payloadSchema: null, lookups: [] })
export const vocabulary = signal({ input: [], dps: [], lookups: [], builtins: [], entries: [] })
export const requests = signal([])
export const notices = signal([]) // {id, level, text}
export const connected = signal(true)

// docs are the files that were opened, by path: {base, digest} is the file as it was read, text what is in the editor (null
// if the edit removes it), theirs what another program made of it meanwhile.
export const docs = signal({})
export const open = signal('')
export const jump = signal(null) // {path, line, column}: where the editor should go

export const edits = computed(() => {
  const edited = {}
  for (const [path, doc] of Object.entries(docs.value)) if (doc.text !== doc.base) edited[path] = doc.text
  return edited
})
export const edited = computed(() => Object.keys(edits.value))

// then is a second request, for a counterexample of two; expected is what an exchange says is decided.
export const request = signal({ name: '', text: '', then: null, expected: null })
export const rows = signal([])
export const whyNot = signal('')
export const answer = signal(null)
export const deciding = signal(false)
export const answerError = signal('')
export const problems = signal([])
export const coverage = signal({})
export const elsewhere = signal({}) // by tab: the paths that it edits

export const pane = signal('editor')
export const narrow = signal(false)
export const view = computed(() => ['prove', 'fleet'].includes(pane.value) ? pane.value : 'decide')

let lastNotice = 0
export function notify (text, level = 'note') {
  const id = ++lastNotice
  notices.value = [...notices.value.filter((notice) => notice.text !== text), { id, level, text }].slice(-3)
  if (level === 'note') setTimeout(() => dismiss(id), 6000)
}
export const dismiss = (id) => { notices.value = notices.value.filter((notice) => notice.id !== id) }
export const report = (err) => { if (!aborted(err)) notify(err.message, 'error') }

// ---- files

function setDoc (path, change) {
  docs.value = { ...docs.value, [path]: { ...docs.value[path], ...change } }
}

export const textOf = (path) => docs.value[path]?.text
export const isReadOnly = () => workspace.value?.readOnly ?? false

export function edit (path, text) {
  if (docs.value[path]?.text !== text) setDoc(path, { text })
}

export async function openFile (path, line, column) {
  if (!docs.value[path]) {
    const file = await get('/api/file', { path })
    if (!docs.value[path]) setDoc(path, { base: file.text, digest: file.digest, text: file.text })
  }
  batch(() => {
    open.value = path
    if (line) jump.value = { path, line, column }
    if (pane.value === 'fleet' || (narrow.value && pane.value !== 'editor')) pane.value = 'editor'
  })
}

export const openPlace = (place) => {
  const [, path, line] = place.match(/^(.*?):(\d+)/) ?? [null, place, 1]
  openFile(path, Number(line)).catch(report)
}

export function newFile (path) {
  if (!docs.value[path]) setDoc(path, { base: null, digest: '', text: '' })
  else if (docs.value[path].text === null) setDoc(path, { text: '' })
  open.value = path
  pane.value = 'editor'
}

export function discard (path) {
  const doc = docs.value[path]
  if (doc.base === null) {
    const { [path]: gone, ...others } = docs.value
    docs.value = others
    if (open.value === path) open.value = ''
  } else setDoc(path, { text: doc.base })
}

export async function remove (path) {
  if (!docs.value[path]) await openFile(path)
  if (docs.value[path].base === null) discard(path)
  else setDoc(path, { text: null })
}

// save formats and writes a file. What another program made of it is never written over: it becomes theirs.
export async function save (path) {
  const doc = docs.value[path]
  if (!doc || doc.text === doc.base) return
  if (doc.theirs) return notify(`${path} was changed by another program: compare the two first`, 'error')
  if (doc.text !== null && path.endsWith('.rego')) {
    const formatted = await post('/api/format', { path, text: doc.text })
    if (formatted.text != null && docs.value[path].text === doc.text) setDoc(path, { text: formatted.text })
  }
  const { text, digest } = docs.value[path]
  try {
    const saved = await put('/api/file', { path, text, digest })
    if (text === null) {
      const { [path]: gone, ...others } = docs.value
      docs.value = others
      if (open.value === path) open.value = ''
    } else setDoc(path, { base: text, digest: saved.digest })
    notify(text === null ? `${path} is removed` : `${path} is saved`)
  } catch (err) {
    if (!(err instanceof Failed) || err.status !== 409) throw err
    const theirs = { text: err.body.digest ? err.body.text : null, digest: err.body.digest }
    // The same text is that of another save, of this tab or of the next one.
    setDoc(path, theirs.text === text ? { base: text, digest: theirs.digest } : { theirs })
  }
}

export async function saveAll () {
  for (const path of edited.value) await save(path)
}

export function takeTheirs (path) {
  const { theirs } = docs.value[path]
  if (theirs.text === null) {
    const { [path]: gone, ...others } = docs.value
    docs.value = others
    if (open.value === path) open.value = ''
    return
  }
  setDoc(path, { base: theirs.text, digest: theirs.digest, text: theirs.text, theirs: null })
}

// keepMine lets the next save replace what the other program wrote, after the person has seen it.
export function keepMine (path) {
  const { theirs } = docs.value[path]
  setDoc(path, { base: theirs.text, digest: theirs.digest, theirs: null })
}

// follow takes over what has changed on disk, except where there are edits.
async function follow (files) {
  const now = new Map(files.map((file) => [file.path, file]))
  for (const [path, doc] of Object.entries(docs.value)) {
    const digest = now.get(path)?.digest ?? ''
    if (digest === doc.digest || digest === doc.theirs?.digest) continue
    const file = digest ? await get('/api/file', { path }).catch(() => null) : { text: null, digest: '' }
    const current = docs.value[path] // it may have been edited or saved meanwhile
    if (!file || !current || file.digest === current.digest) continue
    if (current.text !== current.base && current.text !== file.text) {
      setDoc(path, { theirs: file })
    } else if (file.text === null) {
      const { [path]: gone, ...others } = docs.value
      docs.value = others
      if (open.value === path) open.value = ''
    } else setDoc(path, { base: file.text, digest: file.digest, text: file.text, theirs: null })
  }
}

// ---- the request

export const setRequest = (text) => { request.value = { ...request.value, text, then: null, expected: null } }

export function showRequest ({ name, text, rows: found, then, expected }) {
  batch(() => {
    request.value = { name, text: typeof text === 'string' ? text : JSON.stringify(text, null, 2) + '\n', then: then ?? null, expected: expected ?? null }
    rows.value = found ?? []
    whyNot.value = ''
    if (pane.value === 'fleet' || pane.value === 'prove' || narrow.value) pane.value = narrow.value ? 'answer' : 'request'
  })
}

export async function chooseRequest (id) {
  const { then, ...chosen } = await get(`/api/requests/${encodeURIComponent(id)}`)
  showRequest({ ...chosen, expected: then })
}

// ---- what follows the edits

// latest returns a function that runs work(signal) after a pause, and aborts what it ran before.
function latest (pause, work) {
  let timer, running
  return () => {
    clearTimeout(timer)
    running?.abort()
    timer = setTimeout(() => {
      running = new AbortController()
      work(running.signal)
    }, pause)
  }
}

const version = signal(0) // of what is on disk

const decide = latest(decideAfter, async (stop) => {
  deciding.value = true
  const asked = { edits: edits.peek(), request: request.peek().text, rows: rows.peek(), whyNot: whyNot.peek() }
  try {
    const started = performance.now()
    const found = await post('/api/decide', asked, stop)
    batch(() => {
      answer.value = { ...found, asked, took: performance.now() - started }
      answerError.value = ''
    })
  } catch (err) {
    if (aborted(err)) return
    answerError.value = err.message
  }
  deciding.value = false
})

const check = latest(checkAfter, async (stop) => {
  try {
    problems.value = (await post('/api/check', { edits: edits.peek() }, stop)).problems
  } catch (err) {
    report(err)
  }
})

const relist = latest(50, async (stop) => {
  try {
    const [about, offered, words, list] = await Promise.all(
      ['/api/workspace', '/api/choices', '/api/vocabulary', '/api/requests'].map((path) => get(path, {}, stop)))
    batch(() => {
      workspace.value = about
      choices.value = offered
      vocabulary.value = words
      requests.value = list
    })
  } catch (err) {
    report(err)
  }
})

const fleetListeners = new Set()
export const onFleet = (listener) => {
  fleetListeners.add(listener)
  return () => fleetListeners.delete(listener)
}

function listen () {
  const events = new EventSource('/api/events')
  events.addEventListener('open', () => { connected.value = true })
  events.addEventListener('error', () => { connected.value = false })
  events.addEventListener('files', (event) => {
    follow(JSON.parse(event.data).files).then(() => {
      version.value++
      relist()
    }).catch(report)
  })
  events.addEventListener('fleet', (event) => fleetListeners.forEach((listener) => listener(JSON.parse(event.data))))
}

// ---- what survives a reload, and other tabs

const tab = Math.random().toString(36).slice(2)

function keep (name) {
  const key = `usher-play:${name}`
  try {
    const kept = JSON.parse(sessionStorage.getItem(key) ?? 'null')
    if (kept) {
      docs.value = kept.docs
      request.value = kept.request
      rows.value = kept.rows
      open.value = kept.open
    }
  } catch { // a page of another version wrote it
    sessionStorage.removeItem(key)
  }
  effect(() => {
    const edited = Object.fromEntries(Object.entries(docs.value).filter(([, doc]) => doc.text !== doc.base))
    try {
      sessionStorage.setItem(key, JSON.stringify({ docs: edited, request: request.value, rows: rows.value, open: open.value }))
    } catch { // there is no room: a reload loses the edits, as in any other editor
      sessionStorage.removeItem(key)
    }
  })
}

function tellOtherTabs (name) {
  const channel = new BroadcastChannel(`usher-play:${name}`)
  const tell = () => channel.postMessage({ tab, edited: edited.peek() })
  channel.addEventListener('message', ({ data }) => {
    if (data.hello) return tell()
    elsewhere.value = { ...elsewhere.value, [data.tab]: data.edited }
  })
  effect(() => {
    channel.postMessage({ tab, edited: edited.value })
  })
  addEventListener('pagehide', () => channel.postMessage({ tab, edited: [] }))
  channel.postMessage({ hello: true })
}

export const editedElsewhere = (path) => Object.values(elsewhere.value).some((paths) => paths.includes(path))

// start loads what there is, and keeps it up to date.
export async function start () {
  const narrowest = matchMedia('(max-width: 899px)')
  narrow.value = narrowest.matches
  narrowest.addEventListener('change', () => { narrow.value = narrowest.matches })
  try {
    const [about, offered, words, list] = await Promise.all(
      ['/api/workspace', '/api/choices', '/api/vocabulary', '/api/requests'].map((path) => get(path)))
    batch(() => {
      workspace.value = about
      choices.value = offered
      vocabulary.value = words
      requests.value = list
    })
    keep(about.name)
    tellOtherTabs(about.name)
    const first = open.value || about.files.find(({ kind }) => kind === 'rule')?.path || about.files[0]?.path
    if (first) await openFile(first).catch(() => { open.value = '' })
    if (!request.value.text && list.length > 0) {
      const rule = about.rules.find(({ place }) => place.startsWith(first + ':'))
      const served = offered.enrollments.find((enrollment) => enrollment.rule === rule?.package)
      await chooseRequest((list.find(({ name }) => name === `a new device of ${served?.pattern}`) ?? list[0]).id)
    }
    pane.value = 'editor'
  } catch (err) {
    report(err)
  }
  listen()
  effect(() => {
    edits.value; request.value; rows.value; whyNot.value; version.value
    if (request.value.text) decide()
  })
  effect(() => {
    edits.value; version.value
    check()
  })
}
