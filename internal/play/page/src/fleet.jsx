// A log or a running usher dps: where devices are, and where the edited rules would move them.
import { signal, useSignal } from '@preact/signals'
import { useEffect, useRef } from 'preact/hooks'
import { aborted, get, stream } from './api.js'
import { drawingOf } from './drawing.js'
import { Pane, Pill, Scroll, count, shortHub, tone } from './parts.jsx'
import { edited, edits, notify, onFleet, openPlace, report, showRequest, workspace } from './state.js'

const fleet = signal(null)
const replay = signal(null) // {running, done, total, report, flow, matrix, who}
const pageSize = 50
let replaying

function Drawing ({ svg, label }) {
  const parent = useRef()
  useEffect(() => {
    const drawing = svg ? drawingOf(svg) : null
    parent.current.replaceChildren(...(drawing ? [drawing] : []))
  }, [svg])
  return <div class='drawing' ref={parent} tabIndex={0} role='region' aria-label={label} />
}

const load = async () => {
  try {
    fleet.value = await get('/api/fleet')
  } catch (err) {
    report(err)
  }
}

async function replayEdits (baseline) {
  replaying = new AbortController()
  replay.value = { running: true, done: 0 }
  try {
    await stream('/api/fleet/replay', { edits: edits.value, baseline }, replaying.signal, (event, data) => {
      if (event === 'progress') replay.value = { ...replay.value, ...data }
      if (event === 'report') replay.value = { ...replay.value, ...data, running: false }
      if (event === 'problem') replay.value = { ...replay.value, problem: data, running: false }
    })
    replay.value = { ...replay.value, running: false }
  } catch (err) {
    replay.value = aborted(err) ? { ...replay.value, running: false, stopped: true } : null
    report(err)
  }
}

const show = (id) => get(`/api/fleet/requests/${encodeURIComponent(id)}`).then(({ name, text, rows, then, masked }) => {
  showRequest({ name, text, rows, expected: then && { ...then, by: 'log' } })
  if (masked?.length) notify(`The log lacks ${masked.join(', ')} of this request.`)
}).catch(report)

const outcomeOf = (state) => state?.result === 'assigned' ? shortHub(state.hub) : state?.result || 'unknown'

function Devices () {
  const filters = useSignal({ q: '', hub: '', outcome: '', enrollment: '', rule: '' })
  const offset = useSignal(0)
  const page = useSignal(null)
  const version = useSignal(0)
  useEffect(() => onFleet(() => { version.value++ }), [])
  useEffect(() => {
    const stop = new AbortController()
    const timer = setTimeout(async () => {
      try {
        page.value = await get('/api/fleet/devices', { ...filters.value, offset: offset.value, limit: pageSize }, stop.signal)
      } catch (err) {
        report(err)
      }
    }, 120)
    return () => {
      clearTimeout(timer)
      stop.abort()
    }
  }, [filters.value, offset.value, version.value])
  const filter = (name) => (event) => {
    filters.value = { ...filters.value, [name]: event.target.value }
    offset.value = 0
  }
  const names = (list) => (list ?? []).map((one) => typeof one === 'string' ? { name: one } : one)
  const choose = (name, label, list) => (
    <select aria-label={label} value={filters.value[name]} onChange={filter(name)}>
      <option value=''>{label}</option>
      {names(list).map(({ name: one, count: n }) => <option key={one} value={one}>{shortHub(one) || 'none'}{n !== undefined ? ` (${count(n)})` : ''}</option>)}
    </select>)
  const { total = 0, rows = [] } = page.value ?? {}
  return (
    <section class='block devices' aria-label='Devices'>
      <div class='row wrap filters'>
        <input type='search' aria-label='Registration ID contains' placeholder='registration ID contains' value={filters.value.q} onInput={filter('q')} />
        {choose('hub', 'All hubs', fleet.value?.hubs)}
        {choose('outcome', 'All outcomes', fleet.value?.outcomes)}
        {fleet.value?.enrollments?.length > 0 && choose('enrollment', 'All enrollments', fleet.value.enrollments)}
        {fleet.value?.rules?.length > 0 && choose('rule', 'All rules', fleet.value.rules)}
        <span class='spacer' />
        <span role='status' class='muted'>{total === 0 ? 'none' : `${count(offset.value + 1)}–${count(Math.min(offset.value + pageSize, total))} of ${count(total)}`}</span>
        <button aria-label='Previous page' disabled={offset.value === 0} onClick={() => { offset.value = Math.max(0, offset.value - pageSize) }}>‹</button>
        <button aria-label='Next page' disabled={offset.value + pageSize >= total} onClick={() => { offset.value += pageSize }}>›</button>
      </div>
      <Scroll label='Devices'>
        <table class='table'>
          <thead><tr><th scope='col'>registration ID</th><th scope='col'>result</th><th scope='col'>hub</th><th scope='col'>enrollment</th><th scope='col'>rule</th><th scope='col'>from</th></tr></thead>
          <tbody>
            {rows.map((row) => (
              <tr key={row.id}>
                <td><button class='place' title='Show its request' onClick={() => show(row.id)}>{row.registrationId}</button></td>
                <td>{row.result ? <Pill kind={tone(row.result)}>{row.result}</Pill> : <span class='muted'>not known</span>}</td>
                <td title={row.hub}>{shortHub(row.hub)}{row.before && row.before !== row.hub && <small class='muted'> was {shortHub(row.before)}</small>}</td>
                <td>{row.enrollment}</td><td>{row.rule?.replace(/^allocation\./, '')}</td><td class='muted' title={row.place}>{fleet.value?.logs.length === 1 ? row.place.replace(/^.*:/, 'line ') : row.place.replace(/^.*[/\\]/, '')}</td>
              </tr>))}
          </tbody>
        </table>
      </Scroll>
    </section>
  )
}

const kindNames = {
  stayed: 'stay', moved: 'move', diverted: 'stay, but a new one would not', twinChanged: 'another twin', payloadChanged: 'another payload',
  twinAndPayloadChanged: 'another twin and payload', newlyAccepted: 'newly accepted', newlyRejected: 'newly rejected', newlyHeld: 'newly held',
  newlyFaulted: 'newly failing', stillRejected: 'still rejected', stillHeld: 'still held', stillFaulted: 'still failing', firstAssigned: 'first: assigned',
  firstRejected: 'first: rejected', firstHeld: 'first: held', firstFaulted: 'first: failing'
}
const kindTones = { moved: 'move', diverted: 'move', newlyAccepted: 'good', newlyRejected: 'bad', newlyHeld: 'hold', newlyFaulted: 'bad' }

const Matrix = ({ matrix }) => (
  <table class='table matrix'>
    <caption>From the row to the column</caption>
    <thead><tr><td />{matrix.columns.map((name, i) => <th key={i} scope='col'>{name}</th>)}</tr></thead>
    <tbody>
      {matrix.rows.map(({ name, cells }, i) => <tr key={i}><th scope='row'>{name}</th>{cells.map(({ count: n, class: kind, title }, j) => (
        <td key={j} class={`number cell-${n ? kind : 'none'}`} title={title}>{n ? count(n) : <span class='muted'>·</span>}</td>))}</tr>)}
    </tbody>
  </table>
)

// LeftOut says what a replay does not cover, and why, before its figures.
const LeftOut = ({ text, report: { lacking, lackingFirst, malformed, malformedFirst } }) => {
  const first = [...lackingFirst, ...malformedFirst]
  const more = lacking + malformed - first.length
  return (
    <details open class='banner warn'>
      <summary>{text}</summary>
      <ul>
        {first.map(({ place, problem }, i) => <li key={i}><code>{place}</code> {problem}</li>)}
        {more > 0 && <li class='muted'>and {count(more)} more</li>}
      </ul>
    </details>
  )
}

// noOne says how far it is known that the rules change nothing.
function noOne ({ leftOut, report: { registrations, counted } }) {
  if (registrations === 0) return leftOut ? 'Not known: nothing could be replayed.' : 'No one: the log has no registrations.'
  if (!leftOut) return 'No one: the rules change nothing for the devices of the log.'
  return `No change for the ${counted === 1 ? 'device' : `${count(counted)} devices`} that could be replayed. What the rules change for those left out is not known.`
}

function Replayed ({ run }) {
  const found = run.report
  return (
    <>
      {run.leftOut && <LeftOut text={run.leftOut} report={found} />}
      <p class='tiles'>
        {Object.entries(found.counts).filter(([, n]) => n > 0).sort((a, b) => b[1] - a[1]).map(([kind, n]) => <span key={kind} class={`tile tile-${kindTones[kind] ?? 'plain'}`}><b>{count(n)}</b> {kindNames[kind] ?? kind}</span>)}
      </p>
      {run.time && found.counted > 0 && <p>{run.time[0].toUpperCase() + run.time.slice(1)}</p>}
      <div class='overview'>
      {run.flow && <Drawing svg={run.flow} label='Flow of devices between hubs' />}
      <div class='stack'>
        <div><h4>Hubs</h4>
          <table class='table'>
            <thead><tr><th scope='col'>hub</th><th scope='col' class='number'>before</th><th scope='col' class='number'>arrive</th><th scope='col' class='number'>leave</th><th scope='col' class='number'>after</th></tr></thead>
            <tbody>{found.hubs.map((hub) => <tr key={hub.name}><td>{shortHub(hub.name)}</td><td class='number'>{count(hub.before)}</td><td class='number'>{count(hub.arrive)}</td><td class='number'>{count(hub.leave)}</td><td class='number'>{count(hub.after)}</td></tr>)}</tbody>
          </table>
        </div>
        <div><h4>Matrix</h4><div class='sideways' tabIndex={0} role='region' aria-label='Matrix'><Matrix matrix={run.matrix} /></div></div>
        {found.twins?.length > 0 && (
          <div><h4>Twins</h4>
            <table class='table'>
              <thead><tr><th scope='col'>policy</th><th scope='col'>twin</th><th scope='col' class='number'>devices</th></tr></thead>
              <tbody>{found.twins.map((twin, i) => <tr key={i}><td>{twin.reprovision}</td><td>{twin.twin}</td><td class='number'>{count(twin.count)}</td></tr>)}</tbody>
            </table>
          </div>)}
      </div>
      </div>
      <h4>Who moves</h4>
      {run.who.length === 0 && <p class='muted'>{noOne(run)}</p>}
      {run.changed > run.who.length && <p class='muted'>{count(run.who.length)} of {count(run.changed)}, the first of each kind: <code>usher replay --list FILE</code> names all.</p>}
      {run.who.length > 0 && <div class='sideways' tabIndex={0} role='region' aria-label='Who moves'><table class='table'>
        <thead><tr><th scope='col'>registration ID</th><th scope='col'>what</th><th scope='col'>before</th><th scope='col'>after</th><th scope='col'>line</th></tr></thead>
        <tbody>
          {run.who.map((one, i) => (
            <tr key={i}>
              <td>{one.id ? <button class='place' onClick={() => show(one.id)}>{one.registrationId}</button> : one.registrationId}</td>
              <td>{kindNames[one.kind] ?? one.kind}</td><td>{outcomeOf(one.before)}</td><td>{outcomeOf(one.after)}</td>
              <td>{one.lines?.slice(0, 2).map(({ place }, j) => <button key={j} class='place' onClick={() => openPlace(place)}>{place}</button>)}</td>
            </tr>))}
        </tbody>
      </table></div>}
    </>
  )
}

function Replay () {
  const run = replay.value
  const chosen = useSignal('')
  const section = useRef()
  useEffect(() => { // what was asked for is below the table
    if (run?.report) section.current.scrollIntoView({ block: 'start' })
  }, [run?.report])
  const baseline = chosen.value || (fleet.value.recorded > 0 ? 'log' : 'saved')
  return (
    <section class='block' aria-label='Replay' ref={section}>
      <div class='row wrap'>
        <h3>Replay</h3>
        <span class='muted'>{edited.value.length > 0 ? `the edited rules (${edited.value.length} ${edited.value.length === 1 ? 'file' : 'files'}) for each device of the log` : 'the saved rules for each device of the log'}</span>
        <span class='spacer' />
        <select aria-label='Compare with' value={baseline} onChange={(event) => { chosen.value = event.target.value }}>
          <option value='log' disabled={fleet.value.recorded === 0}>compared with what the log says</option>
          <option value='saved'>compared with the saved rules</option>
        </select>
        {run?.running ? <button onClick={() => replaying.abort()}>Stop</button> : <button class='primary' onClick={() => replayEdits(baseline)}>Who moves?</button>}
      </div>
      {run?.running && <progress aria-label='Progress' value={run.total ? run.done : undefined} max={run.total || 1} />}
      <p role='status' class={run?.running || run?.stopped ? 'muted' : 'visually-hidden'}>{run?.running ? `${count(run.done)} registrations…` : run?.stopped ? 'Stopped.' : run?.report ? `The replay is done. ${run.leftOut}` : ''}</p>
      {run?.problem && <p class='text-bad'>{run.problem.error}</p>}
      {run?.report && <Replayed run={run} />}
    </section>
  )
}

export function Fleet () {
  useEffect(() => {
    if (!workspace.value?.log && !workspace.value?.dps) return
    load()
    return onFleet(load)
  }, [workspace.value?.log, workspace.value?.dps])
  if (workspace.value && !workspace.value.log && !workspace.value.dps) {
    return (
      <Pane id='fleet' title='Fleet'>
        <div class='empty'>
          <p><b>There is no log.</b></p>
          <p>Start <code>usher play --log FILE</code> with a log of requests, of decision records, or with the journal of <code>usher dps</code>, and this pane shows where the devices are and whom your edits move.</p>
          <p><code>usher play --dps</code> follows an <code>usher dps</code> that runs.</p>
        </div>
      </Pane>
    )
  }
  const found = fleet.value
  return (
    <Pane id='fleet' title='Fleet' actions={found && <span class='muted'>{found.logs.map(({ name }) => name.replace(/^.*[/\\]/, '')).join(', ')}{workspace.value?.dps && ' · live'}</span>}>
      <Scroll label='Fleet' class='fleet'>
        {!found && <p class='empty'>The log is read…</p>}
        {found && (
          <>
            <p class='tiles'>
              <span class='tile'><b>{count(found.registrations)}</b> registrations</span>
              <span class='tile'><b>{count(found.devices)}</b> devices</span>
              {found.outcomes.map(({ name, count: n }) => <span key={name} class={`tile tile-${tone(name)}`}><b>{count(n)}</b> {name}</span>)}
            </p>
            {found.logs.filter(({ missing }) => missing > 0).map(({ name, missing }) => (
              <p key={name} class='banner warn' role='status'><span><b>{count(missing)} {missing === 1 ? 'entry' : 'entries'} of {name} could not be read</b>, and the devices in {missing === 1 ? 'it' : 'them'} may be missing here: it keeps only the newest. <code>usher dps --journal FILE</code> writes all to a file, which <code>usher play --log FILE</code> reads.</span></p>))}
            {found.problems > 0 && <details class='banner warn'><summary>{count(found.problems)} {found.problems === 1 ? 'line' : 'lines'} could not be used</summary><ul>{found.firstProblems.map(({ place, problem }, i) => <li key={i}><code>{place}</code> {problem}</li>)}</ul></details>}
            {(found.reading || found.undecided > 0) && <p class='muted' role='status'>{found.reading ? 'The log is being read…' : `${count(found.undecided)} registrations are still to be decided…`}</p>}
            <div class='overview'>{found.flow && <Drawing svg={found.flow} label='Devices by enrollment and hub' />}<Devices /></div>
            <Replay />
          </>)}
      </Scroll>
    </Pane>
  )
}
