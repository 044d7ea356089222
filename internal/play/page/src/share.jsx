// One file with all that a decision came from, to download and to open.
import { batch, useSignal } from '@preact/signals'
import { get, post } from './api.js'
import { Modal } from './parts.jsx'
import { docs, edited, edits, notify, open, openFile, request, rows, showRequest } from './state.js'

async function download () {
  const { name, text } = await post('/api/share', { edits: edits.value, request: request.value.text, rows: rows.value })
  const link = document.createElement('a')
  link.href = URL.createObjectURL(new Blob([text], { type: 'text/plain' }))
  link.download = name
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 10000)
  return name
}

// take puts the files of a reproducer into the editor as edits: nothing is written until they are saved.
async function take (text) {
  const found = await post('/api/open', { text })
  const next = {}
  await Promise.all(Object.entries(found.files).map(async ([path, text]) => {
    const file = await get('/api/file', { path }).catch((err) => {
      if (err.status === 404) return { text: null, digest: '' }
      throw err
    })
    if (text !== file.text) next[path] = { base: file.text, digest: file.digest, text }
  }))
  batch(() => {
    docs.value = next
    open.value = ''
  })
  if (found.request) showRequest({ name: 'the request of the file', text: found.request, rows: found.rows })
  for (const problem of found.problems ?? []) notify(problem, 'error')
  const first = Object.entries(found.files).find(([path, text]) => text !== null && path.endsWith('.rego') && !path.startsWith('lib/'))
  if (first) await openFile(first[0])
}

export function Share ({ onClose }) {
  const problem = useSignal('')
  const busy = useSignal(false)
  const attempt = async (work) => {
    busy.value = true
    problem.value = ''
    try {
      await work()
      onClose()
    } catch (err) {
      problem.value = err.message
    }
    busy.value = false
  }
  const choose = async (event) => {
    const file = event.target.files[0]
    if (file) await attempt(async () => take(await file.text()))
  }
  return (
    <Modal title='Share' onClose={onClose}>
      <p>One text file (<code>txtar</code>) with the rule as edited, its data, the request, the rows of look-ups and the answer. Keys and certificates are masked.</p>
      <div class='row'><button class='primary' disabled={busy.value} onClick={() => attempt(async () => notify(`${await download()} is downloaded`))}>Download</button></div>
      <h3>Open one</h3>
      <p class='muted'>Its files take the place of the rules in the editor as edits. Nothing is written until you save{edited.value.length > 0 ? <>, but <b>your unsaved edits are dropped</b></> : ''}.</p>
      <label class='field'><span>File</span><input type='file' accept='.txtar,.txt' onChange={choose} disabled={busy.value} /></label>
      {problem.value && <p class='text-bad' role='alert'>{problem.value}</p>}
    </Modal>
  )
}

