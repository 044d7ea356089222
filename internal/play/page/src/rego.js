// Rego for CodeMirror: enough to color, to indent and to comment.
import { LanguageSupport, StreamLanguage } from '@codemirror/language'

const keywords = /^(?:package|import|default|not|with|as|if|else|some|in|every|contains)\b/
const name = /^[A-Za-z_]\w*/
const number = /^-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?/

const rego = StreamLanguage.define({
  name: 'rego',
  startState: () => ({ raw: false, depth: 0, afterDot: false }),
  copyState: (state) => ({ ...state }),
  token (stream, state) {
    if (state.raw) {
      state.raw = !stream.skipTo('`')
      if (state.raw) stream.skipToEnd()
      else stream.next()
      return 'string'
    }
    if (stream.eatSpace()) return null
    const afterDot = state.afterDot
    state.afterDot = false
    if (stream.eat('#')) {
      const metadata = stream.match(/^\s*(?:METADATA|title:|description:|custom:|scope:|enrollment_groups:|individual_enrollments:)/)
      stream.skipToEnd()
      return metadata ? 'meta' : 'comment'
    }
    if (stream.match(/^"(?:[^"\\]|\\.)*"?/)) return stream.match(/^\s*:(?!=)/, false) ? 'propertyName' : 'string'
    if (stream.eat('`')) {
      state.raw = true
      return 'string'
    }
    if (stream.match(number)) return 'number'
    if (stream.eat('.')) {
      state.afterDot = true
      return 'punctuation'
    }
    if (!afterDot && stream.match(keywords)) return 'keyword'
    if (stream.match(name)) {
      const word = stream.current()
      if (/^(?:true|false|null)$/.test(word) && !afterDot) return 'atom'
      if (stream.peek() === '(') return 'variableName.function'
      if (afterDot) return 'propertyName'
      if (/^(?:input|data|dps|lookup)$/.test(word)) return 'variableName.special'
      return stream.column() === 0 ? 'variableName.definition' : 'variableName'
    }
    if (stream.match(/^(?::=|==|!=|<=|>=|[=<>+\-*/%|&])/)) return 'operator'
    const bracket = stream.next()
    if ('{[('.includes(bracket)) state.depth++
    if ('}])'.includes(bracket)) state.depth = Math.max(0, state.depth - 1)
    return '{[(}])'.includes(bracket) ? 'bracket' : 'punctuation'
  },
  indent: (state, after, context) => context.unit * Math.max(0, state.depth - (/^\s*[}\])]/.test(after) ? 1 : 0)),
  languageData: {
    commentTokens: { line: '#' },
    closeBrackets: { brackets: ['(', '[', '{', '"', '`'] },
    indentOnInput: /^\s*[}\])]$/
  }
})

export const regoLanguage = () => new LanguageSupport(rego)
