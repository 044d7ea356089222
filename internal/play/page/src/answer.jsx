// The answer: what DPS gets and does, what the edits change, and where it comes from.
import { useComputed, useSignal } from '@preact/signals'
import { post } from './api.js'
import { Ask, JSONText, Pane, Pill, Place, Scroll, count, shortHub, tone } from './parts.jsx'
import { answer, answerError, deciding, edited, edits, isReadOnly, notify, open, openFile, report, request, rows, whyNot } from './state.js'

const words = { gave: 'gave', not_held: 'failed', unreached: 'not reached', erred: 'error', not_traced: 'not traced' }

const resultOf = (decision) => decision.explain?.decision.outcome ?? decision.explain?.decision.fault

const twins = { applied: 'applied', ignored: 'ignored', merged: 'merged' }

// Terms are the values that an expression is made of, and the definitions behind them.
function Terms ({ terms }) {
  if (!terms?.length) return null
  return (
    <ul class='terms'>
      {terms.map(({ text, values, why, definitions, repeated }, i) => (
        <li key={i}>
          <code>{text}</code> {values?.length ? <>= {values.map((value, j) => <span key={j}>{j > 0 && ', '}<JSONText value={value} /></span>)}</> : <span class='text-bad'>is undefined</span>}
          {why && <span class='muted'> {why}</span>}{repeated && <span class='muted'> (see above)</span>}
          {definitions?.length > 0 && <Definitions list={definitions} folded />}
        </li>
      ))}
    </ul>
  )
}

function Definition ({ definition, folded }) {
  const { place, text, state, value, failed, uses, draws, error } = definition
  const below = failed || uses?.length || draws?.length || error
  const head = (
    <>
      <span class={`mark mark-${state}`} aria-hidden='true'>{{ gave: '●', not_held: '✕', erred: '!' }[state] ?? '·'}</span>
      <span class='visually-hidden'>{words[state]}: </span>
      <code>{text}</code>
      {state === 'gave' && value !== undefined && <span class='gives'> → <JSONText value={value} /></span>}
    </>)
  const rest = (
    <div class='because'>
      {error && <p class='text-bad'>{error}</p>}
      {failed && <p><span class='text-bad'>does not hold:</span> <code>{failed.text}</code> <Place place={failed.place} />{failed.tries > 1 && <span class='muted'> (tried {count(failed.tries)} times)</span>}{failed.why && <span class='muted'> {failed.why}</span>}</p>}
      {failed && <Terms terms={failed.terms} />}
      <Terms terms={uses} />
      {draws?.map(({ drawn, among, key }, i) => <p key={i} class='muted'>drawn {shortHub(drawn)} of {among.map(shortHub).join(', ')} by {key}</p>)}
    </div>)
  if (!below) return <div class='leaf'>{head} <Place place={place} /></div>
  return (
    <details open={!folded && state !== 'unreached'}>
      <summary>{head}</summary>
      <div class='leaf'><Place place={place} /></div>
      {rest}
    </details>
  )
}

const Definitions = ({ list, folded }) => <ul class='definitions'>{list.map((definition, i) => <li key={i}><Definition definition={definition} folded={folded} /></li>)}</ul>

const Entry = ({ entry }) => (
  <details class='entry' open={entry.asked && entry.definitions.some(({ state }) => ['gave', 'erred'].includes(state))}>
    <summary>
      <b>{entry.name}</b> {entry.title && <span class='muted'>{entry.title}</span>}
      {!entry.asked && <span class='muted'> not evaluated: the answer was there before</span>}
      {entry.error && <span class='text-bad'> {entry.error}</span>}
    </summary>
    <Definitions list={entry.definitions} />
  </details>
)

// Hubs are the linked hubs; one click says why the device does not go there.
function Hubs ({ decision, before }) {
  const linked = useComputed(() => {
    try {
      const hubs = JSON.parse(request.value.text).linkedHubs
      return Array.isArray(hubs) ? hubs.filter((hub) => typeof hub === 'string') : []
    } catch {
      return []
    }
  })
  const goes = decision.explain.decision.hub
  const current = decision.explain.device.currentHub
  const shown = decision.explain.whyNot
  return (
    <>
      <div class='hubs' role='group' aria-label='Linked hubs'>
        {linked.value.map((hub) => (
          <button
            key={hub} class={`hub ${hub === goes ? 'chosen' : ''}`} title={hub === goes ? hub : `Why not ${hub}?`} aria-pressed={whyNot.value === hub}
            onClick={() => { whyNot.value = whyNot.value === hub ? '' : hub }}
          >
            {hub === goes && <span aria-hidden='true'>→ </span>}{shortHub(hub)}
            {hub === current && <small> current</small>}{before && hub === before && hub !== goes && <small> saved rules</small>}
          </button>
        ))}
      </div>
      {whyNot.value && shown && (
        <div class='card' role='status'>
          <b>{shown.answer ? `The device goes to ${shortHub(shown.hub)}` : `Why not ${shortHub(shown.hub)}?`}</b>
          {shown.obstacles?.map((text, i) => <p key={i}>{text}</p>)}
          {shown.definitions.length > 0 && (
            <ul class='definitions'>{shown.definitions.map(({ place, text, state, note, failed }, i) => (
              <li key={i}>
                <span class={`mark mark-${state}`} aria-hidden='true'>{{ gave: '●', not_held: '✕', erred: '!' }[state] ?? '·'}</span> <code>{text}</code> <Place place={place} />
                <div class='because'>{note}{failed && <Terms terms={failed.terms} />}</div>
              </li>))}
            </ul>)}
        </div>)}
    </>
  )
}

const shown = (what, value) => {
  if (value === null || value === undefined || value === '') return <span class='muted'>none</span>
  if (what === 'hub') return <b>{shortHub(value)}</b>
  return typeof value === 'string' || typeof value === 'number' ? <b>{String(value)}</b> : <JSONText value={value} />
}

function Changes () {
  const { changes, saved, edited: now } = answer.value
  if (!saved) return null
  if (saved.problems) return <div class='card'><b>The saved rules do not decide this request</b><p>{saved.problems[0].file}{saved.problems[0].line ? `:${saved.problems[0].line}` : ''} {saved.problems[0].message}</p></div>
  if (now.problems) return null
  if (changes.length === 0) return <p class='card quiet-card' role='status'>Your edits change nothing for this device.</p>
  return (
    <div class='card change' role='status'>
      <b>What your edits change for this device</b>
      <table>
        <thead><tr><td /><th scope='col'>saved</th><th scope='col'>edited</th></tr></thead>
        <tbody>{changes.map(({ what, before, after }) => <tr key={what}><th scope='row'>{what}</th><td>{shown(what, before)}</td><td>{shown(what, after)}</td></tr>)}</tbody>
      </table>
    </div>
  )
}

// Expected says if an exchange has another decision than this one.
function Expected ({ decided }) {
  const { expected } = request.value
  if (!expected) return null
  const same = (name) => JSON.stringify(expected[name] ?? null) === JSON.stringify(decided[name] ?? null)
  const differ = ['outcome', 'fault', 'hub', 'initialTwin', 'payload', 'reasons'].filter((name) => expected[name] !== undefined && !same(name))
  if (differ.length === 0) return null
  return <p class='card' role='status'><Pill kind='warn'>not as before</Pill> The {expected.by ?? 'exchange'} has {differ.map((name, i) => <span key={name}>{i > 0 && ', '}{name} {shown(name, expected[name])}</span>)}.</p>
}

function Keep ({ onClose }) {
  const as = useSignal('exchange')
  const keep = async (name) => {
    const kept = await post('/api/keep', { as: as.value, name, request: request.value.text, rows: rows.value, edits: edits.value })
    notify(`${kept.path} has this decision now: usher test runs it`)
    await openFile(kept.path)
  }
  return (
    <Ask title='Keep this decision as a test' label='Name' hint='Lower-case letters, digits, - and _.' action='Keep' onClose={onClose} onAnswer={keep}>
      <div class='switch' role='group' aria-label='Keep as'>
        <button type='button' aria-pressed={as.value === 'exchange'} onClick={() => { as.value = 'exchange' }}>Exchange</button>
        <button type='button' aria-pressed={as.value === 'test'} onClick={() => { as.value = 'test' }}>Case in _test.rego</button>
      </div>
      <p class='muted'>{as.value === 'exchange' ? 'Two files next to the rule: the request, and what is decided.' : 'A test in Rego in the test file of the rule.'}</p>
    </Ask>
  )
}

const pretty = (text) => {
  try {
    return JSON.stringify(JSON.parse(text), null, 2)
  } catch {
    return text
  }
}

function Decision ({ decision }) {
  const { explain, status, body, wait } = decision
  const result = resultOf(decision)
  const { decision: decided, effect } = explain
  const saved = answer.value.saved?.explain?.decision.hub
  const reasons = decided.reasons ?? []
  return (
    <>
      <div class='headline'>
        <Pill kind={tone(result)}>{result}</Pill>
        <b class='where'>{decided.hub ? shortHub(decided.hub) : reasons[0] ?? decided.detail ?? ''}</b>
        <span class='http' title='What the webhook answers to DPS'>HTTP {status}</span>
      </div>
      <p class='effect'>{effect.message[0].toUpperCase() + effect.message.slice(1)}{wait > 0 && `, and is asked to wait ${wait} s`}.</p>
      {reasons.length > 1 && <ul class='reasons'>{reasons.map((reason, i) => <li key={i}>{reason}</li>)}</ul>}
      {reasons.length > 0 && decided.detail && <p class='text-bad'>{decided.detail}</p>}
      {decided.cause && <p class='muted'>{decided.cause}</p>}
      {explain.overrides?.map(({ name, text }) => <p key={name} class='override'><Pill kind='warn'>constraint</Pill> {text}</p>)}
      <Expected decided={decided} />
      <Changes />
      <Hubs decision={decision} before={saved} />
      <dl class='facts'>
        {explain.rules[0] && <><dt>Rule</dt><dd>{explain.rules[0].title || explain.rules[0].package} <Place place={explain.rules[0].place} /></dd></>}
        {decided.initialTwin && <><dt>Initial twin</dt><dd><JSONText value={decided.initialTwin} /> <Pill kind='plain'>{twins[effect.initialTwin] ?? effect.initialTwin}</Pill></dd></>}
        {decided.payload && <><dt>Payload</dt><dd><JSONText value={decided.payload} /></dd></>}
        {explain.lookups?.map(({ function: name, key, row, fault, source }, i) => (
          <div key={i} class='contents'><dt>Looked up</dt><dd><code>{name}({JSON.stringify(key)})</code> {fault ? <span class='text-bad'>{fault}</span> : row ? <JSONText value={row} /> : 'no row'} {source && <span class='muted'>{source}</span>}</dd></div>))}
      </dl>
      <h3>Why</h3>
      {explain.cutShort && <p class='text-warn'>The explanation is incomplete: {explain.cutShort}.</p>}
      {explain.builtinErrors?.map((text, i) => <p key={i} class='text-bad'>{text}</p>)}
      {explain.entries.map((entry) => <Entry key={entry.name} entry={entry} />)}
      <details class='entry'><summary><b>Response</b> <span class='muted'>the body that DPS gets</span></summary><pre tabIndex={0} aria-label='Response'>{pretty(body)}</pre></details>
    </>
  )
}

function Broken ({ list }) {
  const here = list.filter(({ file }) => file !== 'request')
  return (
    <>
      <div class='headline'><Pill kind='bad'>no decision</Pill><b class='where'>{list[0]?.file === 'request' ? 'This is not a request' : 'The rules do not load'}</b></div>
      <ul class='broken'>
        {list.map(({ file, line, column, message, fix }, i) => (
          <li key={i}>
            {file === 'request' ? <span class='muted'>request, line {line}</span> : <button class='place' onClick={() => openFile(file, line, column).catch(report)}>{file}:{line}</button>} {message}{fix && <span class='muted'> {fix}</span>}
          </li>))}
      </ul>
      {here.length > 0 && open.value !== here[0].file && <p class='muted'>The mistake is in another file than the open one.</p>}
    </>
  )
}

export function Answer () {
  const keeping = useSignal(false)
  const found = answer.value
  const decision = found?.edited
  return (
    <Pane
      id='answer' title={<>Answer {edited.value.length > 0 && <span class='state'>edited rules</span>}</>} label='Answer'
      actions={
        <>
          <span class='took' aria-hidden='true'>{deciding.value ? 'deciding…' : found && `${Math.round(found.took)} ms`}</span>
          {!isReadOnly() && <button class='quiet' disabled={!decision?.explain} onClick={() => { keeping.value = true }}>Keep as test</button>}
        </>
      }
    >
      <Scroll label='Answer' class={`answer ${deciding.value ? 'busy' : ''}`}>
        {answerError.value && <p class='banner bad' role='alert'>{answerError.value}</p>}
        {!found && !answerError.value && <p class='empty'>Choose a request above.</p>}
        {decision?.problems && <Broken list={decision.problems} />}
        {decision?.explain && <Decision decision={decision} />}
        {decision?.explain && <p class='visually-hidden' role='status'>{resultOf(decision)} {shortHub(decision.explain.decision.hub ?? '')}, HTTP {decision.status}</p>}
      </Scroll>
      {keeping.value && <Keep onClose={() => { keeping.value = false }} />}
    </Pane>
  )
}
