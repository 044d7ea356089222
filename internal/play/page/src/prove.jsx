// Tests with their coverage, and the search for counterexamples.
import { signal, useSignal } from '@preact/signals'
import { aborted, stream } from './api.js'
import { Pane, Pill, Place, Scroll, count } from './parts.jsx'
import { coverage, edits, notify, openFile, report, showRequest, workspace } from './state.js'

const tests = signal(null) // {running, cases, passed, failed, coverage}
const search = signal(null) // {running, done, total, report, problem}
let testing, searching

export async function runTests () {
  testing?.abort()
  testing = new AbortController()
  const own = testing
  tests.value = { running: true, cases: [], passed: 0, failed: 0 }
  const cases = []
  try {
    await stream('/api/test', { edits: edits.value }, own.signal, (event, data) => {
      if (testing !== own) return
      if (event === 'case') {
        cases.push(data)
        const passed = cases.filter(({ outcome }) => outcome === 'passed').length
        const skipped = cases.filter(({ outcome }) => outcome === 'skipped').length
        tests.value = { running: true, cases: [...cases], passed, failed: cases.length - passed - skipped }
      }
      if (event === 'coverage') coverage.value = data
      if (event === 'problem') tests.value = { ...tests.value, problem: data }
      if (event === 'done') tests.value = { ...tests.value, running: false }
    })
    if (testing === own && tests.value.running) tests.value = { ...tests.value, running: false }
  } catch (err) {
    if (testing === own) tests.value = aborted(err) ? { ...tests.value, running: false, stopped: true } : null
    report(err)
  }
}

async function verify (options) {
  searching = new AbortController()
  search.value = { running: true, done: 0, total: 0 }
  try {
    await stream('/api/verify', { edits: edits.value, ...options }, searching.signal, (event, data) => {
      if (event === 'progress') search.value = { ...search.value, ...data }
      if (event === 'report') search.value = { ...search.value, report: data, running: false }
      if (event === 'problem') search.value = { ...search.value, problem: data, running: false }
    })
    search.value = { ...search.value, running: false }
  } catch (err) {
    search.value = aborted(err) ? { ...search.value, running: false, stopped: true } : null
    report(err)
  }
}

const messageOf = ({ problems, error }) => problems.length ? problems.map(({ file, line, message }) => `${file}:${line} ${message}`).join('\n') : error

function percent (files) {
  let covered = 0
  let all = 0
  for (const { covered: yes, missed } of files) {
    covered += yes.filter((line) => !missed.includes(line)).length
    all += new Set([...yes, ...missed]).size
  }
  return all ? Math.floor(100 * covered / all) : 100
}

const marks = { passed: 'gave', skipped: 'unreached', failed: 'not_held', errored: 'erred' }
const signs = { passed: '●', skipped: '·', failed: '✕', errored: '!' }

const Cases = ({ list }) => (
  <ul class='cases'>
    {list.map(({ name, file, line, outcome, message, printed, failedAt }, i) => (
      <li key={i}>
        <span class={`mark mark-${marks[outcome]}`} aria-hidden='true'>{signs[outcome]}</span>
        <span class='visually-hidden'>{outcome}: </span>
        {file ? <button class='place' title={name} onClick={() => openFile(file, line).catch(report)}>{name.replace(/^data\.(?:allocation\.)?/, '')}</button> : name}
        {failedAt && <> <Place place={`${failedAt.file}:${failedAt.line}`} /></>}
        {message && <pre>{message}</pre>}
        {printed && <pre class='printed'>{printed}</pre>}
      </li>
    ))}
  </ul>
)

function Tests () {
  const run = tests.value
  const files = Object.entries(coverage.value)
  return (
    <section class='block' aria-label='Tests'>
      <div class='row'>
        <h3>Tests</h3>
        <span class='spacer' />
        {run?.running ? <button onClick={() => testing.abort()}>Stop</button> : <button class='primary' title='Ctrl-Enter or ⌘Enter' onClick={runTests}>Run tests</button>}
      </div>
      <p role='status'>
        {!run && <span class='muted'>The tests of the edited rules, with the lines that they cover in the margin of the editor.</span>}
        {run && <>{run.failed > 0 ? <Pill kind='bad'>{count(run.failed)} failed</Pill> : !run.running && !run.problem && <Pill kind='good'>all passed</Pill>} {count(run.passed)} of {count(run.passed + run.failed)} passed{run.running && '…'}{run.stopped && ', stopped'}</>}
      </p>
      {run?.problem && <p class='text-bad lines'>{messageOf(run.problem)}</p>}
      {run && <Cases list={run.cases.filter(({ outcome }) => ['failed', 'errored'].includes(outcome))} />}
      {run && run.passed > 0 && <details><summary>{count(run.passed)} passed</summary><Cases list={run.cases.filter(({ outcome }) => outcome === 'passed').slice(0, 500)} /></details>}
      {run && run.cases.some(({ outcome }) => outcome === 'skipped') && <details><summary>skipped</summary><Cases list={run.cases.filter(({ outcome }) => outcome === 'skipped')} /></details>}
      {files.length > 0 && (
        <details class='entry'>
          <summary><b>Coverage</b> {percent(files.map(([, file]) => file))} % of the lines</summary>
          <table class='table'>
            <thead><tr><th scope='col'>file</th><th scope='col' class='number'>covered</th><th scope='col'>not covered</th></tr></thead>
            <tbody>
              {files.map(([path, file]) => (
                <tr key={path}><td><button class='place' onClick={() => openFile(path).catch(report)}>{path}</button></td><td class='number'>{percent([file])} %</td>
                  <td>{file.missed.slice(0, 12).map((line) => <button key={line} class='place' onClick={() => openFile(path, line).catch(report)}>{line}</button>)}{file.missed.length > 12 && '…'}</td>
                </tr>))}
            </tbody>
          </table>
        </details>)}
    </section>
  )
}

const Finding = ({ finding }) => (
  <li class='card broken-promise'>
    <p><Pill kind='bad'>{finding.promise}</Pill> {finding.says}</p>
    <p>{finding.message} <Place place={finding.place} /></p>
    <p class='row'><button onClick={() => {
      showRequest({ name: `counterexample of ${finding.promise}`, text: finding.request, then: finding.then, rows: (finding.rows ?? []).map((row) => ({ row: null, ...row })) })
      notify('The counterexample is in the request pane.')
    }}>Show the counterexample</button> <span class='muted'>{count(finding.count)} {finding.count === 1 ? 'request breaks' : 'requests break'} it</span></p>
  </li>
)

function RuleReport ({ rule }) {
  const { space } = rule
  return (
    <section class='card' aria-label={rule.title || rule.rule}>
      <p class='row'><b>{rule.title || rule.rule}</b><span class='spacer' />{rule.broken.length === 0 ? <Pill kind='good'>no counterexample</Pill> : <Pill kind='bad'>{rule.broken.length} broken</Pill>}</p>
      <p class='muted'><Place place={rule.place} /> {count(space.asked)} requests{space.exhaustive ? ', all that there are' : ''}: {rule.outcomes.map(({ name, count: n }) => `${count(n)} ${name}`).join(', ')}. {space.branches && `${count(space.branches.reached)} of ${count(space.branches.outcomes)} ways through the rule were taken.`}</p>
      {rule.broken.length > 0 && <ul class='findings'>{rule.broken.map((finding, i) => <Finding key={i} finding={finding} />)}</ul>}
      {space.branches?.missed?.map(({ place, text, never }, i) => <p key={i}><Pill kind='warn'>{never === 'impossible' ? 'impossible' : 'not reached'}</Pill> <code>{text}</code> <Place place={place} /> <span class='muted'>{never}</span></p>)}
      {rule.stuck?.map(({ reason, place, request }, i) => (
        <p key={i}><Pill kind='hold'>held for good</Pill> {reason} <Place place={place} /> <button onClick={() => showRequest({ name: 'a device that is held for good', text: request })}>Show</button></p>))}
      <details><summary>What was tried</summary>
        <ul class='dimensions'>{space.dimensions.map(({ name, values, single }) => <li key={name}>{name}: {count(values)} {values === 1 ? 'value' : 'values'}{single && <span class='muted'> ({single})</span>}</li>)}</ul>
        {space.notes?.map((note, i) => <p key={i} class='muted'>{note}</p>)}
      </details>
    </section>
  )
}

function Verify () {
  const run = search.value
  const rule = useSignal('')
  const budget = useSignal('5000')
  const seed = useSignal('')
  const start = (event) => {
    event.preventDefault()
    const options = { budget: Number(budget.value) }
    if (rule.value) options.rule = rule.value
    if (seed.value) options.seed = Number(seed.value)
    verify(options)
  }
  return (
    <section class='block' aria-label='Verify'>
      <form class='row wrap' onSubmit={start}>
        <h3>Verify</h3>
        <span class='spacer' />
        <select aria-label='Rule' value={rule.value} onChange={(event) => { rule.value = event.target.value }}>
          <option value=''>all rules</option>
          {workspace.value?.rules.map(({ package: name, title }) => <option key={name} value={name}>{title || name}</option>)}
        </select>
        <select aria-label='How many requests to try' value={budget.value} onChange={(event) => { budget.value = event.target.value }}>
          {['1000', '5000', '20000', '100000'].map((n) => <option key={n} value={n}>{count(Number(n))} requests</option>)}
        </select>
        <input class='short' aria-label='Seed' placeholder='seed' inputMode='numeric' value={seed.value} onInput={(event) => { seed.value = event.target.value.replace(/\D/g, '') }} />
        {/* The keys make them two buttons: else the click that stops would submit the form. */}
        {run?.running ? <button key='stop' type='button' onClick={() => searching.abort()}>Stop</button> : <button key='search' class='primary'>Search</button>}
      </form>
      {!run && <p class='muted'>Searches for a request that breaks a promise of the rules: a hub that is not linked, a device that moves each time, an invariant of yours.</p>}
      {run?.running && <progress aria-label='Progress' value={run.total ? run.done : undefined} max={run.total || 1} />}
      {run && <p role='status' class='muted'>{run.running ? `${count(run.done)} requests tried…` : run.stopped ? 'Stopped.' : run.report && (run.report.rules.every(({ broken }) => broken.length === 0) ? 'No counterexample.' : 'There are counterexamples.')}</p>}
      {run?.problem && <p class='text-bad lines'>{messageOf(run.problem)}</p>}
      {run?.report && [...run.report.rules].sort((a, b) => b.broken.length - a.broken.length).map((one) => <RuleReport key={one.rule} rule={one} />)}
    </section>
  )
}

export const Prove = () => (
  <Pane id='prove' title='Prove'>
    <Scroll label='Tests and verification' class='prove'><Tests /><Verify /></Scroll>
  </Pane>
)
