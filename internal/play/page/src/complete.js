// Completion of input, dps., look-ups, built-ins and entry rules.
import { vocabulary } from './state.js'

function note (text) {
  const element = document.createElement('div')
  element.className = 'completion-doc'
  element.textContent = text
  return element
}

const option = (label, type, detail, doc, apply) => ({ label, type, detail, apply, info: doc ? () => note(doc) : undefined })

// members offers the next name of paths such as input.deviceRuntimeContext below what is typed.
function members (paths, before) {
  const offered = new Map()
  for (const { path, type, doc } of paths) {
    if (!path.startsWith(before)) continue
    const next = path.slice(before.length)
    if (/^\w+$/.test(next)) offered.set(next, option(next, 'property', type, doc))
  }
  return [...offered.values()]
}

export function completeRego (context) {
  const line = context.state.doc.lineAt(context.pos)
  const before = line.text.slice(0, context.pos - line.from)
  if (/^[^"`]*#/.test(before)) return null
  const words = vocabulary.value
  const path = before.match(/((?:\w+(?:\[[^\]]*\])?\.)+)(\w*)$/)
  if (path) {
    const [, prefix, typed] = path
    const from = context.pos - typed.length
    let options = []
    if (prefix.startsWith('input.')) options = members(words.input, prefix.replaceAll(/\[[^\]]*\]/g, '[_]'))
    else if (prefix === 'dps.') {
      options = words.dps.map(({ name, args, doc, form }) => option(name, form === 'function' ? 'function' : 'variable', args.length ? `(${args.join(', ')})` : '', doc))
    } else if (prefix === 'lookup.') options = words.lookups.map(({ name, doc }) => option(name, 'function', '(key)', doc))
    else {
      // A variable that holds a row: device := lookup.inventory(…)
      const variable = prefix.slice(0, -1)
      const used = context.state.doc.toString().match(new RegExp(`\\b${variable.replace(/\W/g, '\\$&')}\\s*:=\\s*lookup\\.(\\w+)`))?.[1]
      const row = words.lookups.find(({ name }) => name === used)
      if (row) options = row.members.map(({ path, type, doc }) => option(path, 'property', type, doc))
      else options = words.builtins.filter(({ name }) => name.startsWith(prefix)).map(({ name, args, doc }) => option(name.slice(prefix.length), 'function', `(${args.join(', ')})`, doc))
    }
    return options.length ? { from, options, validFor: /^\w*$/ } : null
  }
  const word = before.match(/\w*$/)[0]
  if (!word && !context.explicit) return null
  if (/"[^"]*$/.test(before.replaceAll(/"[^"]*"/g, ''))) return null
  const options = [
    option('input', 'variable', 'the AllocationRequest'),
    option('dps', 'namespace', 'the library'),
    ...(words.lookups.length ? [option('lookup', 'namespace', 'look-ups')] : []),
    ...words.builtins.filter(({ name }) => !name.includes('.')).map(({ name, args, doc }) => option(name, 'function', `(${args.join(', ')})`, doc))
  ]
  if (before === word) options.push(...words.entries.map(({ name, doc }) => ({ ...option(name, 'keyword', 'entry rule', doc), boost: 2 })))
  return { from: context.pos - word.length, options, validFor: /^\w*$/ }
}
