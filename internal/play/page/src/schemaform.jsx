// A form from a JSON Schema: objects, strings, numbers, booleans and enumerations. What it does not know is a field for
// JSON. onChange gets a function of the value, which can have changed since the form was drawn.
import { useState } from 'preact/hooks'

const follow = (schema, root) => {
  if (!schema?.$ref?.startsWith('#/')) return schema ?? {}
  return schema.$ref.slice(2).split('/').reduce((at, name) => at?.[name.replaceAll('~1', '/').replaceAll('~0', '~')], root) ?? {}
}

// withMember sets or removes a member; an object without members is none.
function withMember (value, name, member) {
  const next = { ...value }
  if (member === undefined) delete next[name]
  else next[name] = member
  return Object.keys(next).length > 0 ? next : undefined
}

function Raw ({ value, onChange, label }) {
  const [draft, setDraft] = useState(null)
  const text = draft ?? (value === undefined ? '' : JSON.stringify(value))
  return (
    <input
      aria-label={label} value={text} placeholder='JSON' onBlur={() => setDraft(null)}
      onInput={(event) => {
        setDraft(event.target.value)
        try {
          onChange(event.target.value.trim() === '' ? undefined : JSON.parse(event.target.value))
        } catch {} // not yet valid
      }}
    />
  )
}

export function SchemaForm ({ schema: given, root = given, value, onChange, name = '', required = false, depth = 0 }) {
  const schema = follow(given, root)
  const label = schema.title || name || 'value'
  const hint = schema.description
  if (schema.properties && depth < 6) {
    const objectOf = (value) => value && typeof value === 'object' && !Array.isArray(value) ? value : {}
    const members = Object.entries(schema.properties).map(([member, below]) => (
      <SchemaForm
        key={member} schema={below} root={root} name={member} depth={depth + 1} required={schema.required?.includes(member)}
        value={objectOf(value)[member]} onChange={(update) => onChange((old) => withMember(objectOf(old), member, update(objectOf(old)[member])))}
      />))
    return depth === 0 ? <div class='columns'>{members}</div> : <fieldset><legend>{label}</legend>{members}</fieldset>
  }
  const caption = <span title={hint}>{label}{required && <em aria-hidden='true'> *</em>}</span>
  const offered = schema.enum ?? (schema.const !== undefined ? [schema.const] : schema.type === 'boolean' ? [true, false] : null)
  if (offered) {
    const index = offered.findIndex((one) => JSON.stringify(one) === JSON.stringify(value))
    return (
      <label class='field'>{caption}
        <select value={index} onChange={(event) => onChange(() => offered[Number(event.target.value)])}>
          <option value={-1}>not sent</option>
          {offered.map((one, i) => <option key={i} value={i}>{typeof one === 'string' ? one : JSON.stringify(one)}</option>)}
        </select>
      </label>
    )
  }
  if (schema.type === 'number' || schema.type === 'integer') {
    return (
      <label class='field'>{caption}
        <input
          type='number' step={schema.type === 'integer' ? 1 : 'any'} min={schema.minimum} max={schema.maximum} value={value ?? ''}
          onInput={(event) => onChange(() => event.target.value === '' ? undefined : Number(event.target.value))}
        />
      </label>
    )
  }
  if (schema.type === 'string') {
    return (
      <label class='field'>{caption}
        <input value={value ?? ''} maxLength={schema.maxLength} placeholder={schema.examples?.[0]} onInput={(event) => onChange(() => event.target.value === '' ? undefined : event.target.value)} />
      </label>
    )
  }
  return <label class='field'>{caption}<Raw value={value} onChange={(next) => onChange(() => next)} label={label} /></label>
}
