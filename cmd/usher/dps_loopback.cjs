// Written by `usher dps`: makes Node programs find the stand-in under Azure's names, without changes to the programs, to
// the hosts file or to ports:
//
//   NODE_OPTIONS="--require <this file>" NODE_EXTRA_CA_CERTS=<ca.pem in the same folder> node device.js
//
// TLS connections to *.azure-devices.net and *.azure-devices-provisioning.net go to the stand-in. Certificates and Host
// headers still have those names. Nothing else changes.
'use strict'
const tls = require('node:tls')
const { syncBuiltinESMExports } = require('node:module')

const address = '@ADDRESS@'
const ports = { 443: @HTTPS@, 8883: @MQTT@ } // where the stand-in listens
const azure = /\.azure-devices(-provisioning)?\.net$/i
const connect = tls.connect

const lookup = (_name, options, callback) => {
  const family = address.includes(':') ? 6 : 4
  if (options.all) callback(null, [{ address, family }])
  else callback(null, address, family)
}

tls.connect = (...args) => {
  const callback = typeof args.at(-1) === 'function' ? args.pop() : undefined
  const options = {}
  for (const [i, arg] of args.entries()) {
    if (arg !== null && typeof arg === 'object') Object.assign(options, arg)
    else if (i === 0) options.port = arg
    else if (arg !== undefined) options.host = arg
  }
  const host = options.host ?? options.servername
  if (azure.test(host ?? '')) {
    options.servername ??= host
    options.port = ports[options.port] ?? options.port
    options.lookup = lookup
  }
  return connect(options, callback)
}
syncBuiltinESMExports()
