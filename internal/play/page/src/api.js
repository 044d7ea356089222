// The API of usher play, as docs/play.md describes it.

// Failed is what the server says is wrong; status is 0 if it does not answer.
export class Failed extends Error {
  constructor (status, body) {
    super(body.error ?? `usher play answered with status ${status}`)
    this.status = status
    this.body = body
  }
}

async function call (method, path, { body, query, signal } = {}) {
  const address = new URL(path, location.href)
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value !== '' && value != null) address.searchParams.set(name, value)
  }
  const request = { method, signal, headers: { Accept: 'application/json, text/event-stream' } }
  if (body) {
    request.headers['Content-Type'] = 'application/json'
    request.body = JSON.stringify(body)
  }
  let response
  try {
    response = await fetch(address, request)
  } catch (err) {
    if (err.name === 'AbortError') throw err
    throw new Failed(0, { error: 'usher play does not answer: is it still running?' })
  }
  if (!response.ok) throw new Failed(response.status, await response.json().catch(() => ({})))
  return response
}

export const get = async (path, query, signal) => (await call('GET', path, { query, signal })).json()
export const post = async (path, body, signal) => (await call('POST', path, { body, signal })).json()
export const put = async (path, body) => (await call('PUT', path, { body })).json()

// stream posts, and hands each server-sent event of the answer to on(event, data). Aborting stops the work of the server.
export async function stream (path, body, signal, on) {
  const response = await call('POST', path, { body, signal })
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
  let text = ''
  for (;;) {
    const { done, value } = await reader.read()
    if (done) return
    text += value
    const events = text.split('\n\n')
    text = events.pop()
    for (const event of events) {
      const name = event.match(/^event: (.*)$/m)?.[1]
      const data = event.match(/^data: (.*)$/m)?.[1]
      if (name && data) on(name, JSON.parse(data))
    }
  }
}

export const aborted = (err) => err.name === 'AbortError'
