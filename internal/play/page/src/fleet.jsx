// A log or a running usher dps: where devices are, and where the edited rules would move them.
import { signal, useSignal } from '@preact/signals'
import { useEffect, useRef } from 'preact/hooks'
import { aborted, get, stream } from './api.js'
import { drawingOf } from './drawing.js'
import { Pane, Pill, Scroll, count, shortHub, tone } from './parts.jsx'
import { edited, edits, narrow, onFleet, openPlace, report, showRequest, workspace } from './state.js'

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

async function replayEdits () {
  replaying = new AbortController()
  replay.value = { running: true, done: 0 }
  try {
    await stream('/api/fleet/replay', { edits: edits.value }, replaying.signal, (event, data) => {
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

const show = (id) => get(`/api/fleet/requests/${encodeURIComponent(id)}`).then(({ name, text, rows }) => showRequest({ name, text, rows })).catch(report)

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
                <td>{row.result && <Pill kind={tone(row.result)}>{row.result}</Pill>}</td>
                <td title={row.hub}>{shortHub(row.hub)}{row.before && row.before !== row.hub && <small class='muted'> was {shortHub(row.before)}</small>}</td>
                <td>{row.enrollment}</td><td>{row.rule?.replace(/^allocation\./, '')}</td><td class='muted'>{row.place}</td>
              </tr>))}
          </tbody>
        </table>
      </Scroll>
    </section>
  )
}

const kindNames = { stayed: 'stay', moved: 'move', first: 'first registrations', accepted: 'newly accepted', rejected: 'newly rejected', refused: 'newly refused', diverted: 'diverted', held: 'newly held', faulted: 'newly failing' }

function duration (seconds) {
  if (seconds < 120) return `${count(seconds)} s`
  if (seconds < 7200) return `${count(Math.ceil(seconds / 60))} min`
  return `${count(Math.ceil(seconds / 3600))} h`
}

function Matrix ({ flows }) {
  const name = (state) => outcomeOf(state)
  const from = [...new Set(flows.map(({ before }) => name(before)))].sort()
  const to = [...new Set(flows.map(({ after }) => name(after)))].sort()
  const sums = new Map()
  for (const { before, after, count: n } of flows) sums.set(`${name(before)}\n${name(after)}`, (sums.get(`${name(before)}\n${name(after)}`) ?? 0) + n)
  return (
    <table class='table matrix'>
      <caption>From the row to the column</caption>
      <thead><tr><td />{to.map((one) => <th key={one} scope='col'>{one}</th>)}</tr></thead>
      <tbody>
        {from.map((row) => <tr key={row}><th scope='row'>{row}</th>{to.map((column) => {
          const n = sums.get(`${row}\n${column}`)
          return <td key={column} class={`number ${n && row !== column ? 'moves' : ''}`}>{n ? count(n) : <span class='muted'>·</span>}</td>
        })}</tr>)}
      </tbody>
    </table>
  )
}

function Replayed ({ run }) {
  const found = run.report
  const changed = found.counted - (found.counts.stayed ?? 0)
  return (
    <>
      <p class='tiles'>
        {Object.entries(found.counts).filter(([, n]) => n > 0).map(([kind, n]) => <span key={kind} class='tile'><b>{count(n)}</b> {kindNames[kind] ?? kind}</span>)}
        {changed > 0 && <span class='tile' title={`DPS registers ${count(found.reprovision.perMinute)} devices a minute`}><b>{duration(found.reprovision.seconds)}</b> at least, for {count(found.reprovision.registrations)} registrations</span>}
      </p>
      {run.flow && <Drawing svg={run.flow} label='Flow of devices between hubs' />}
      <div class='pair'>
        <div><h4>Hubs</h4>
          <table class='table'>
            <thead><tr><th scope='col'>hub</th><th scope='col' class='number'>before</th><th scope='col' class='number'>arrive</th><th scope='col' class='number'>leave</th><th scope='col' class='number'>after</th></tr></thead>
            <tbody>{found.hubs.map((hub) => <tr key={hub.name}><td>{shortHub(hub.name)}</td><td class='number'>{count(hub.before)}</td><td class='number'>{count(hub.arrive)}</td><td class='number'>{count(hub.leave)}</td><td class='number'>{count(hub.after)}</td></tr>)}</tbody>
          </table>
        </div>
        <div><h4>Matrix</h4><div class='sideways' tabIndex={0} role='region' aria-label='Matrix'><Matrix flows={found.flows} /></div></div>
        {found.twins?.length > 0 && (
          <div><h4>Twins</h4>
            <table class='table'>
              <thead><tr><th scope='col'>policy</th><th scope='col'>twin</th><th scope='col' class='number'>devices</th></tr></thead>
              <tbody>{found.twins.map((twin, i) => <tr key={i}><td>{twin.reprovision}</td><td>{twin.twin}</td><td class='number'>{count(twin.count)}</td></tr>)}</tbody>
            </table>
          </div>)}
      </div>
      <h4>Who</h4>
      <table class='table'>
        <thead><tr><th scope='col'>registration ID</th><th scope='col'>what</th><th scope='col'>before</th><th scope='col'>after</th><th scope='col'>line</th></tr></thead>
        <tbody>
          {(run.who ?? found.examples).map((one, i) => (
            <tr key={i}>
              <td>{one.id ? <button class='place' onClick={() => show(one.id)}>{one.registrationId}</button> : one.registrationId}</td>
              <td>{kindNames[one.kind] ?? one.kind}</td><td>{outcomeOf(one.before)}</td><td>{outcomeOf(one.after)}</td>
              <td>{one.lines?.slice(0, 2).map(({ place }, j) => <button key={j} class='place' onClick={() => openPlace(place)}>{place}</button>)}</td>
            </tr>))}
        </tbody>
      </table>
    </>
  )
}

function Replay () {
  const run = replay.value
  return (
    <section class='block' aria-label='Replay'>
      <div class='row wrap'>
        <h3>Replay</h3>
        <span class='muted'>{edited.value.length > 0 ? `the edited rules (${edited.value.length} ${edited.value.length === 1 ? 'file' : 'files'}) against the log` : 'the rules as saved against the log'}</span>
        <span class='spacer' />
        {run?.running ? <button onClick={() => replaying.abort()}>Stop</button> : <button class='primary' onClick={replayEdits}>Who moves?</button>}
      </div>
      {run?.running && <progress aria-label='Progress' value={run.total ? run.done : undefined} max={run.total || 1} />}
      <p role='status' class={run?.running || run?.stopped ? 'muted' : 'visually-hidden'}>{run?.running ? `${count(run.done)} registrations…` : run?.stopped ? 'Stopped.' : run?.report ? 'The replay is done.' : ''}</p>
      {run?.problem && <p class='text-bad'>{run.problem.message ?? run.problem.error ?? JSON.stringify(run.problem)}</p>}
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
    <Pane id='fleet' title='Fleet' actions={found && <span class='muted'>{found.logs?.map((log) => log.name ?? log).join(', ')}{workspace.value?.dps && ' · live'}</span>}>
      <Scroll label='Fleet' class='fleet'>
        {!found && <p class='empty'>The log is read…</p>}
        {found && (
          <>
            <p class='tiles'>
              <span class='tile'><b>{count(found.registrations)}</b> registrations</span>
              <span class='tile'><b>{count(found.devices)}</b> devices</span>
              {found.hubs?.slice(0, narrow.value ? 3 : 6).map(({ name, count: n }) => <span key={name} class='tile'><b>{count(n)}</b> {shortHub(name) || 'no hub'}</span>)}
            </p>
            {found.problems?.length > 0 && <details class='banner warn'><summary>{count(found.problems.length)} lines could not be read</summary><ul>{found.problems.slice(0, 20).map((problem, i) => <li key={i}>{typeof problem === 'string' ? problem : `${problem.place}: ${problem.problem}`}</li>)}</ul></details>}
            {found.flow && <Drawing svg={found.flow} label='Devices by enrollment and hub' />}
            <Replay />
            <Devices />
          </>)}
      </Scroll>
    </Pane>
  )
}
