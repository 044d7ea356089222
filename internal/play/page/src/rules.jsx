// The folder of rules as a tree, and the editor.
import { useComputed, useSignal } from '@preact/signals'
import { FileEditor } from './editor.jsx'
import { Ask, Pane } from './parts.jsx'
import {
  answer, coverage, discard, docs, edit, edited, editedElsewhere, isReadOnly, jump, keepMine, newFile, open, openFile, problems, remove,
  report, save, saveAll, takeTheirs, workspace
} from './state.js'

const kinds = {
  rule: 'rule', test: 'test', invariants: 'invariants', library: 'library', data: 'data', schema: 'schema', lookups: 'look-ups', fixture: 'fixture', exchange: 'exchange', other: ''
}

// tree groups paths by folder.
function tree (paths) {
  const root = { folders: new Map(), files: [] }
  for (const path of paths) {
    const names = path.split('/')
    const file = names.pop()
    let folder = root
    for (const name of names) {
      if (!folder.folders.has(name)) folder.folders.set(name, { folders: new Map(), files: [] })
      folder = folder.folders.get(name)
    }
    folder.files.push({ name: file, path })
  }
  return root
}

function File ({ path, name, kind }) {
  const doc = docs.value[path]
  const bad = problems.value.filter((problem) => problem.file === path)
  const isEdited = doc && doc.text !== doc.base
  const states = [
    isEdited && (doc.text === null ? 'removed' : 'edited'), doc?.theirs && 'changed by another program',
    bad.some(({ level }) => level === 'error') ? 'has errors' : bad.length > 0 && 'has warnings', editedElsewhere(path) && 'edited in another tab'
  ].filter(Boolean)
  const classes = [
    'file', isEdited && 'edited', doc?.text === null && 'removed', bad.length > 0 && (bad.some(({ level }) => level === 'error') ? 'has-error' : 'has-warning')
  ].filter(Boolean).join(' ')
  return (
    <li>
      <button class={classes} aria-current={open.value === path ? 'true' : undefined} title={[path, ...states].join(' · ')} onClick={() => openFile(path).catch(report)}>
        <span class={`icon icon-${kind}`} aria-hidden='true' />
        <span class='name'>{name}</span>
        {states.length > 0 && <span class='visually-hidden'>, {states.join(', ')}</span>}
        {kinds[kind] && !['rule', 'exchange'].includes(kind) && <span class='kind'>{kinds[kind]}</span>}
        {isEdited && <span class='dot' aria-hidden='true' />}
      </button>
    </li>
  )
}

const Folder = ({ folder, kindOf }) => (
  <ul>
    {[...folder.folders].map(([name, below]) => (
      <li key={name}>
        <details open><summary>{name}</summary><Folder folder={below} kindOf={kindOf} /></details>
      </li>
    ))}
    {folder.files.map(({ path, name }) => <File key={path} path={path} name={name} kind={kindOf(path)} />)}
  </ul>
)

export function Files () {
  const naming = useSignal(false)
  const listed = useComputed(() => {
    const kindsByPath = new Map(workspace.value?.files.map(({ path, kind }) => [path, kind]) ?? [])
    for (const path of edited.value) if (!kindsByPath.has(path)) kindsByPath.set(path, path.endsWith('_test.rego') ? 'test' : path.endsWith('.rego') ? 'rule' : 'other')
    return kindsByPath
  })
  return (
    <Pane
      id='files' title='Rules' label='Files'
      actions={!isReadOnly() && <button class='quiet' onClick={() => { naming.value = true }} title='New file'>New</button>}
    >
      <nav class='scroll tree' aria-label='Files of the rules'>
        <Folder folder={tree([...listed.value.keys()].sort())} kindOf={(path) => listed.value.get(path)} />
      </nav>
      {naming.value && (
        <Ask
          title='New file' label='Path below the folder of rules' value='line/line.rego' action='Create' hint='It is written when you save it.'
          onClose={() => { naming.value = false }} onAnswer={(path) => newFile(path)}
        />)}
    </Pane>
  )
}

function Banner ({ path }) {
  const doc = docs.value[path]
  if (doc?.theirs) {
    const gone = doc.theirs.text === null
    return (
      <div class='banner warn' role='alert'>
        <span>{gone ? 'Another program removed this file while you edited it.' : 'Another program changed this file while you edited it. Changes from theirs to yours are marked below.'}</span>
        <button onClick={() => takeTheirs(path)}>{gone ? 'Remove mine, too' : 'Take theirs'}</button>
        <button onClick={() => keepMine(path)}>Keep mine</button>
      </div>
    )
  }
  if (editedElsewhere(path)) return <div class='banner' role='status'>Another tab has unsaved edits of this file.</div>
  return null
}

function Problems ({ list }) {
  const errors = list.filter(({ level }) => level === 'error').length
  if (list.length === 0) return <p class='status'><span class='text-good' aria-hidden='true'>✓</span> no problems</p>
  return (
    <details class='problems' open={errors > 0}>
      <summary>{errors > 0 && <b class='text-bad'>{errors} {errors === 1 ? 'error' : 'errors'}</b>} {list.length > errors && <b class='text-warn'>{list.length - errors} {list.length - errors === 1 ? 'note' : 'notes'}</b>}</summary>
      <ul tabIndex={0} aria-label='Problems'>
        {list.map((problem, i) => (
          <li key={i}>
            <button class='problem' onClick={() => problem.file && openFile(problem.file, problem.line, problem.column).catch(report)}>
              <span class={`text-${problem.level === 'error' ? 'bad' : 'warn'}`}>{problem.file}{problem.line ? `:${problem.line}` : ''}</span> {problem.message}
              {problem.fix && <span class='muted'> {problem.fix}</span>} <span class='code'>{problem.code}</span>
            </button>
          </li>
        ))}
      </ul>
    </details>
  )
}

const none = { covered: [], missed: [] }

export function Editor () {
  const path = open.value
  const doc = docs.value[path]
  const shown = useComputed(() => {
    const found = problems.value.filter(({ file }) => file === open.value)
    const lines = (answer.value?.edited.lines ?? []).filter(({ file }) => file === open.value)
    const wrong = found.filter(({ line }, i) => found.findIndex((one) => one.line === line) === i)
      .map(({ line, level, message }) => ({ line, state: level === 'error' ? 'erred' : 'warned', why: message }))
    return { lines: [...wrong, ...lines.filter(({ line }) => !wrong.some((one) => one.line === line))], problems: found }
  })
  const isEdited = doc && doc.text !== doc.base
  const tool = doc && !isReadOnly() && (
    <>
      {isEdited && <button class='quiet' onClick={() => discard(path)}>Revert</button>}
      {doc.text !== null && <button class='quiet wide-only' onClick={() => remove(path).catch(report)}>Remove</button>}
      {edited.value.length > 1 && <button class='quiet wide-only' onClick={() => saveAll().catch(report)}>Save all</button>}
      <button class={isEdited ? 'primary' : ''} disabled={!isEdited} title='Format and write the file (Ctrl-S or ⌘S)' onClick={() => save(path).catch(report)}>Save</button>
    </>)
  return (
    <Pane
      id='editor' label='Editor' title={path ? <><span class='path'>{path}</span>{isEdited && <span class='state'>{doc.text === null ? 'to be removed' : 'edited'}</span>}</> : 'No file is open'}
      actions={tool}
    >
      {path && <Banner path={path} />}
      {doc && doc.text !== null && (
        <FileEditor
          key={path} path={path} textOf={() => docs.value[path]?.text} problems={shown.value.problems} lines={shown.value.lines} coverage={coverage.value[path] ?? none}
          compareWith={doc.theirs?.text} jump={jump.value} onChange={(text) => edit(path, text)}
        />)}
      {doc?.text === null && <p class='empty'>Saving removes this file. <button onClick={() => discard(path)}>Keep it</button></p>}
      {!doc && <p class='empty'>Choose a file on the left.</p>}
      <footer class='pane-foot'><Problems list={problems.value} /></footer>
    </Pane>
  )
}
