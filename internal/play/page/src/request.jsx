// The request: to choose, to write as JSON, or to put together by switches. The form and the JSON are the same text.
import { useComputed, useSignal } from '@preact/signals'
import { JSONEditor } from './editor.jsx'
import { Pane, Scroll, count, shortHub } from './parts.jsx'
import { SchemaForm } from './schemaform.jsx'
import { answer, choices, chooseRequest, report, request, requests, rows, setRequest } from './state.js'

// parse keeps numbers that JavaScript would round as they are written, where the browser can.
export function parse (text) {
  return JSON.parse(text, (_, value, { source } = {}) =>
    typeof value === 'number' && source !== undefined && String(value) !== source && JSON.rawJSON ? JSON.rawJSON(source) : value)
}

const kinds = { enrollmentGroup: 'enrollmentGroupId', individualEnrollment: 'registrationId' }
const sameText = (a, b) => String(a).toLowerCase() === String(b).toLowerCase()

function change (make) {
  const next = structuredCloneOf(parse(request.value.text))
  make(next)
  setRequest(JSON.stringify(next, null, 2) + '\n')
}

// structuredCloneOf copies objects and lists; raw numbers are frozen and stay.
const structuredCloneOf = (value) => {
  if (Array.isArray(value)) return value.map(structuredCloneOf)
  if (value && typeof value === 'object' && !JSON.isRawJSON?.(value)) return Object.fromEntries(Object.entries(value).map(([name, member]) => [name, structuredCloneOf(member)]))
  return value
}

const Field = ({ label, children }) => <label class='field'><span>{label}</span>{children}</label>

function Enrollment ({ document }) {
  const kind = document.individualEnrollment ? 'individualEnrollment' : 'enrollmentGroup'
  const record = document[kind] ?? {}
  const id = record[kinds[kind]] ?? ''
  const offered = choices.value.enrollments
  const chosen = offered.findIndex((one) => one.kind === kind && sameText(one.id, id))
  const choose = (index) => change((next) => {
    const { kind: wanted, id, hubs } = offered[index]
    const { [kinds[kind]]: gone, ...rest } = next[kind] ?? {}
    delete next.enrollmentGroup
    delete next.individualEnrollment
    next[wanted] = { [kinds[wanted]]: id, ...rest }
    if (wanted === 'individualEnrollment') next.deviceRuntimeContext = { ...next.deviceRuntimeContext, registrationId: id }
    if (hubs.length > 0) next.linkedHubs = hubs
  })
  return (
    <>
      <Field label='Enrollment'>
        <select value={chosen} onChange={(event) => choose(Number(event.target.value))}>
          {chosen < 0 && <option value={-1}>{id || 'none'}</option>}
          {offered.map((one, i) => <option key={i} value={i}>{one.pattern} · {one.title || one.rule}{one.kind === 'individualEnrollment' ? ' (individual)' : ''}</option>)}
        </select>
      </Field>
      <Field label={kind === 'enrollmentGroup' ? 'Enrollment group' : 'Individual enrollment'}>
        <input value={id} onInput={(event) => change((next) => { next[kind] = { ...next[kind], [kinds[kind]]: event.target.value } })} />
      </Field>
    </>
  )
}

function Attestation ({ document }) {
  const device = document.deviceRuntimeContext ?? {}
  const kind = document.individualEnrollment ? 'individualEnrollment' : 'enrollmentGroup'
  const list = choices.value.attestations
  const now = list.find(({ name }) => device[name] !== undefined)?.name ?? ''
  const choose = (name) => change((next) => {
    const { context, enrollment } = list.find((one) => one.name === name)
    next.deviceRuntimeContext = { ...Object.fromEntries(Object.entries(next.deviceRuntimeContext ?? {}).filter(([key]) => !list.some((one) => one.name === key))), ...context }
    if (next[kind]) next[kind].attestation = enrollment
  })
  return (
    <Field label='Attestation'>
      <select value={now} onChange={(event) => choose(event.target.value)}>
        {!now && <option value=''>none</option>}
        {list.map(({ name }) => <option key={name} value={name}>{{ symmetricKey: 'symmetric key', x509: 'X.509 certificate', tpm: 'TPM' }[name] ?? name}</option>)}
      </select>
    </Field>
  )
}

function Reprovision ({ document }) {
  const kind = document.individualEnrollment ? 'individualEnrollment' : 'enrollmentGroup'
  const policy = document[kind]?.reprovisionPolicy
  const same = ({ policy: other }) => policy && other.updateHubAssignment === policy.updateHubAssignment && other.migrateDeviceData === policy.migrateDeviceData
  const list = choices.value.reprovision
  return (
    <Field label='Reprovision policy'>
      <select
        value={list.find(same)?.name ?? ''}
        onChange={(event) => change((next) => { next[kind] = { ...next[kind], reprovisionPolicy: list.find(({ name }) => name === event.target.value).policy } })}
      >
        {!list.some(same) && <option value=''>not in the request</option>}
        {list.map(({ name }) => <option key={name} value={name}>{name}</option>)}
      </select>
    </Field>
  )
}

function Hubs ({ document }) {
  const adding = useSignal('')
  const linked = document.linkedHubs ?? []
  const all = [...linked, ...choices.value.hubs.filter((hub) => !linked.some((other) => sameText(hub, other)))]
  const enrollment = choices.value.enrollments.find((one) => sameText(one.id, document[one.kind]?.[kinds[one.kind]] ?? ''))
  // The hubs of other rules are behind a fold: there can be many.
  const near = all.filter((hub) => linked.includes(hub) || enrollment?.hubs.some((other) => sameText(other, hub)))
  const far = all.filter((hub) => !near.includes(hub))
  const toggle = (hub, on) => change((next) => {
    next.linkedHubs = on ? [...(next.linkedHubs ?? []), hub] : (next.linkedHubs ?? []).filter((other) => other !== hub)
  })
  const add = (event) => {
    event.preventDefault()
    const name = adding.value.trim()
    if (name) toggle(name.includes('.') ? name : `${name}.azure-devices.net`, true)
    adding.value = ''
  }
  const box = (hub) => (
    <label class='check' key={hub} title={hub}>
      <input type='checkbox' checked={linked.includes(hub)} onChange={(event) => toggle(hub, event.target.checked)} /> {shortHub(hub)}
    </label>)
  const current = document.deviceRuntimeContext?.currentIotHubHostName ?? ''
  const setCurrent = (hub) => change((next) => {
    const device = { ...next.deviceRuntimeContext }
    if (hub) {
      device.currentIotHubHostName = hub
      device.currentDeviceId ??= device.registrationId ?? ''
    } else {
      delete device.currentIotHubHostName
      delete device.currentDeviceId
    }
    next.deviceRuntimeContext = device
  })
  return (
    <>
      <fieldset>
        <legend>Linked hubs</legend>
        <div class='checks'>{near.map(box)}</div>
        {far.length > 0 && <details><summary>{count(far.length)} more</summary><div class='checks'>{far.map(box)}</div></details>}
        <form class='row' onSubmit={add}>
          <input aria-label='Another hub' placeholder='another hub' value={adding.value} onInput={(event) => { adding.value = event.target.value }} />
          <button>Link</button>
        </form>
      </fieldset>
      <Field label='Current hub'>
        <select value={current} onChange={(event) => setCurrent(event.target.value)}>
          <option value=''>none: it registers for the first time</option>
          {[...new Set([current, ...all])].filter(Boolean).map((hub) => <option key={hub} value={hub}>{shortHub(hub)}{linked.some((other) => sameText(other, hub)) ? '' : ' (not linked)'}</option>)}
        </select>
      </Field>
    </>
  )
}

// JSONField is a JSON value that is taken over once it is valid.
function JSONField ({ label, value, onChange, empty }) {
  const draft = useSignal(null)
  const text = draft.value ?? (value === undefined ? '' : JSON.stringify(value, null, 2))
  const problem = useSignal('')
  const input = (event) => {
    draft.value = event.target.value
    try {
      const parsed = event.target.value.trim() === '' ? undefined : parse(event.target.value)
      problem.value = ''
      onChange(parsed)
    } catch (err) {
      problem.value = err.message
    }
  }
  return (
    <Field label={label}>
      <textarea
        rows={Math.min(8, text.split('\n').length + 1)} value={text} placeholder={empty} spellcheck={false} aria-invalid={problem.value ? 'true' : undefined}
        onInput={input} onBlur={() => { if (!problem.value) draft.value = null }}
      />
      {problem.value && <small class='text-bad'>{problem.value}</small>}
    </Field>
  )
}

function Payload ({ document }) {
  const schema = choices.value.payloadSchema
  const payload = document.deviceRuntimeContext?.payload
  const update = (make) => change((next) => {
    next.deviceRuntimeContext = { ...next.deviceRuntimeContext }
    const value = make(next.deviceRuntimeContext.payload)
    if (value === undefined) delete next.deviceRuntimeContext.payload
    else next.deviceRuntimeContext.payload = value
  })
  if (!schema) return <JSONField label='Payload of the device' value={payload} onChange={(value) => update(() => value)} empty='{"model": "press-2"}' />
  return (
    <fieldset>
      <legend>Payload of the device</legend>
      <SchemaForm schema={schema} value={payload} onChange={update} />
    </fieldset>
  )
}

// sample is a row to start from: its members have the types that the schema asks for.
const sample = ({ schema }) => Object.fromEntries((schema?.required ?? []).map((name) => {
  const { type, minimum } = schema.properties?.[name] ?? {}
  return [name, { integer: minimum ?? 0, number: minimum ?? 0, boolean: false, array: [], object: {} }[type] ?? '']
}))

const seen = new Map() // the rows of the fixture, by look-up and key

// Rows are what look-ups find. Those that the rule asked for are listed from the answer.
function Rows () {
  const listed = useComputed(() => {
    const asked = (answer.value?.edited.explain?.lookups ?? []).map(({ function: name, key, row, absent, fault }) => ({ lookup: name.replace(/^lookup\./, ''), key, found: { row, absent, fault } }))
    const set = rows.value.filter((one) => !asked.some((other) => other.lookup === one.lookup && other.key === one.key)).map(({ lookup, key }) => ({ lookup, key }))
    return [...asked, ...set]
  })
  const lookup = useSignal('')
  const key = useSignal('')
  const put = (at, next) => {
    const others = rows.value.filter((one) => one.lookup !== at.lookup || one.key !== at.key)
    rows.value = next ? [...others, { lookup: at.lookup, key: at.key, row: null, ...next }] : others
  }
  const tables = choices.value.lookups
  if (tables.length === 0) return null
  const add = (event) => {
    event.preventDefault()
    if (key.value) put({ lookup: lookup.value || tables[0].name, key: key.value }, { row: null })
    key.value = ''
  }
  const chosen = tables.find(({ name }) => name === lookup.value) ?? tables[0]
  return (
    <fieldset>
      <legend>Look-ups</legend>
      {listed.value.length === 0 && <p class='muted'>The rule looks nothing up for this request.</p>}
      {listed.value.map((one) => {
        const set = rows.value.find((other) => other.lookup === one.lookup && other.key === one.key)
        const state = !set ? 'fixture' : set.fails ? 'fails' : set.row ? 'present' : 'absent'
        const choose = (next) => put(one, {
          fixture: null, absent: { row: null }, fails: { row: null, fails: true }, present: { row: seen.get(name) ?? sample(tables.find(({ name: table }) => table === one.lookup) ?? {}) }
        }[next])
        const name = `${one.lookup} ${one.key}`
        if (state === 'fixture' && one.found?.row) seen.set(name, one.found.row)
        return (
          <div class='lookup' key={name}>
            <div class='row'>
              <code>{one.lookup}({JSON.stringify(one.key)})</code>
              <select aria-label={`Row of ${name}`} value={state} onChange={(event) => choose(event.target.value)}>
                <option value='fixture'>as in the fixture{one.found && (one.found.row ? ': found' : ': no row')}</option>
                <option value='present'>present</option>
                <option value='absent'>absent</option>
                <option value='fails'>the source fails</option>
              </select>
            </div>
            {state === 'present' && <JSONField label={`Row for ${one.key}`} value={set.row} onChange={(row) => put(one, { row: row ?? {} })} />}
          </div>
        )
      })}
      <form class='row' onSubmit={add}>
        <select aria-label='Look-up' value={chosen.name} onChange={(event) => { lookup.value = event.target.value }}>{tables.map(({ name }) => <option key={name}>{name}</option>)}</select>
        <input aria-label='Key' placeholder='key' list='lookup-keys' value={key.value} onInput={(event) => { key.value = event.target.value }} />
        <datalist id='lookup-keys'>{chosen.keys.map((one) => <option key={one} value={one} />)}</datalist>
        <button>Add</button>
      </form>
    </fieldset>
  )
}

function Form () {
  const document = useComputed(() => {
    try {
      const parsed = parse(request.value.text)
      return parsed && typeof parsed === 'object' && !Array.isArray(parsed) ? parsed : null
    } catch {
      return null
    }
  })
  if (!document.value) return <p class='empty'>The request is not valid JSON. Fix it on the JSON side, or choose another request.</p>
  const device = document.value.deviceRuntimeContext ?? {}
  return (
    <Scroll label='Request as a form' class='form'>
      <div class='columns'>
        <Enrollment document={document.value} />
        <Field label='Registration ID'>
          <input value={device.registrationId ?? ''} onInput={(event) => change((next) => { next.deviceRuntimeContext = { ...next.deviceRuntimeContext, registrationId: event.target.value } })} />
        </Field>
        <Attestation document={document.value} />
        <Reprovision document={document.value} />
      </div>
      <Hubs document={document.value} />
      <Payload document={document.value} />
      <Rows />
    </Scroll>
  )
}

const groups = { exchange: 'Exchanges next to the rules', example: 'Examples', log: 'From the log' }

export function Request () {
  const side = useSignal('form')
  const chosen = useSignal('')
  const wrong = useComputed(() => (answer.value?.edited.problems ?? []).filter(({ file }) => file === 'request'))
  const choose = (id) => {
    chosen.value = id
    if (id) chooseRequest(id).catch(report)
  }
  const listed = requests.value.find(({ id, name }) => id === chosen.value && name.endsWith(request.value.name))
  return (
    <Pane
      id='request' title='Request'
      actions={
        <>
          <select aria-label='Choose a request' class='choose' value={listed ? chosen.value : ''} onChange={(event) => choose(event.target.value)}>
            <option value=''>{listed ? 'Choose a request' : request.value.name || 'Choose a request'}</option>
            {Object.entries(groups).map(([from, label]) => {
              const list = requests.value.filter((one) => one.from === from)
              return list.length > 0 && <optgroup key={from} label={label}>{list.map(({ id, name, result }) => <option key={id} value={id}>{name}{result ? ` (${result})` : ''}</option>)}</optgroup>
            })}
          </select>
          <div class='switch' role='group' aria-label='Show the request as'>
            <button aria-pressed={side.value === 'form'} onClick={() => { side.value = 'form' }}>Form</button>
            <button aria-pressed={side.value === 'json'} onClick={() => { side.value = 'json' }}>JSON</button>
          </div>
        </>
      }
    >
      {request.value.then && (
        <div class='banner'><span>This counterexample needs two requests. This is the first.</span>
          <button onClick={() => setRequest(JSON.stringify(request.value.then, null, 2) + '\n')}>Show the second</button>
        </div>)}
      {wrong.value.length > 0 && <ul class='banner bad' role='status'>{wrong.value.map(({ line, message }, i) => <li key={i}>line {line}: {message}</li>)}</ul>}
      {side.value === 'form' ? <Form /> : <JSONEditor label='Request as JSON' textOf={() => request.value.text} problems={wrong.value} onChange={setRequest} />}
    </Pane>
  )
}
