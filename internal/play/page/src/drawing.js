// Drawings of the server. Only elements and attributes that draw are taken over: a log has text of anyone.
const elements = new Set(['svg', 'g', 'path', 'rect', 'circle', 'line', 'polyline', 'polygon', 'ellipse', 'text', 'tspan', 'title', 'desc', 'defs', 'linearGradient', 'stop'])
const attributes = new Set([
  'class', 'd', 'x', 'y', 'x1', 'x2', 'y1', 'y2', 'dx', 'dy', 'cx', 'cy', 'r', 'rx', 'ry', 'width', 'height', 'points', 'viewBox', 'transform', 'fill', 'fill-opacity',
  'stroke', 'stroke-width', 'stroke-opacity', 'opacity', 'text-anchor', 'dominant-baseline', 'font-size', 'font-weight', 'offset', 'stop-color', 'preserveAspectRatio',
  'role', 'id', 'aria-label', 'aria-labelledby', 'aria-hidden'
])
const namespace = 'http://www.w3.org/2000/svg'

function adopt (from) {
  if (!elements.has(from.localName)) return null
  const to = document.createElementNS(namespace, from.localName)
  for (const { name, value } of from.attributes) {
    if (attributes.has(name) && !/url\s*\(/i.test(value)) to.setAttribute(name, value)
  }
  for (const child of from.childNodes) {
    if (child.nodeType === Node.TEXT_NODE) to.append(child.data)
    else if (child.nodeType === Node.ELEMENT_NODE) {
      const adopted = adopt(child)
      if (adopted) to.append(adopted)
    }
  }
  return to
}

// drawingOf parses the text of an SVG; null if it is none.
export const drawingOf = (text) => adopt(new DOMParser().parseFromString(text, 'image/svg+xml').documentElement)
