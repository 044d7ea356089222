// make e2e: starts the webhook behind usher host and the stand-in for DPS in front of it, and runs the tests against
// them. If Node's packages cannot be installed, it says so and exits with 0; with USHER_E2E=required, it fails.
import { spawn, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { createServer as createTcpServer } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { install } from './packages.mjs'

const here = dirname(fileURLToPath(import.meta.url))
const root = resolve(here, '..')
const usher = join(root, 'bin', process.platform === 'win32' ? 'usher.exe' : 'usher')
const timeScale = 20 // DPS waits 1 s, 10 s, 19 s ... between calls of a webhook
const children = []

function fail(why) {
  console.error(`e2e: ${why}`)
  process.exitCode = 1
}

// start runs a program and resolves to the match of the line that it prints when it serves.
function start(name, command, args, ready, options = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], ...options })
    const output = []
    children.push({ name, child, output })
    child.on('error', reject)
    child.on('exit', (code) => reject(new Error(`${name} ended with ${code}:\n${output.join('\n')}`)))
    for (const stream of [child.stdout, child.stderr]) {
      createInterface({ input: stream }).on('line', (line) => {
        output.push(line)
        const match = line.match(ready)
        if (match) resolve(match)
      })
    }
  })
}

async function stop() {
  for (const { child } of children.reverse()) {
    if (child.exitCode !== null || child.signalCode !== null) continue
    const ended = new Promise((resolve) => child.once('exit', resolve))
    child.removeAllListeners('error')
    child.kill('SIGINT')
    await ended
  }
}

// free reports whether a port is free. If the ports that SDKs use are not, the preload redirects to others.
const free = (port) => new Promise((resolve) => {
  const server = createTcpServer().once('error', () => resolve(false))
  server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)))
})

// makeCertificates makes the certificates of devices with the command for users.
function makeCertificates(folder, foreign) {
  const make = (id, ...more) => {
    const out = join(folder, 'devices')
    const made = spawnSync(usher, ['dps', 'certificate', id, '--output', out, ...more], { encoding: 'utf8' })
    if (made.status !== 0) throw new Error(made.stderr)
    return { cert: readFileSync(join(out, `${id}.pem`), 'utf8'), key: readFileSync(join(out, `${id}.key`), 'utf8') }
  }
  const contoso = ['--folder', folder, '--organization', 'Contoso']
  return {
    'press-http': make('press-http', ...contoso),
    'press-mqtt': make('press-mqtt', ...contoso),
    'press-intermediate': make('press-intermediate', ...contoso, '--intermediate', 'Plant 7'),
    'press-unknown': make('press-unknown', '--folder', folder, '--organization', 'Nobody'),
    'press-expired': make('press-expired', ...contoso, '--days', '-1'),
    'press-foreign': make('press-foreign', '--folder', foreign, '--organization', 'Contoso'),
    'lathe-1-renewed': make('lathe-1', '--folder', folder),
    'lathe-1': make('lathe-1', '--folder', folder),
    'lathe-2-renewed': make('lathe-2', '--folder', folder),
    'lathe-2': make('lathe-2', '--folder', folder)
  }
}

const hubs = [
  'contoso-toasters-hub-1098', 'contoso-heatpumps-hub-1098', 'contoso-eu-hub', 'contoso-us-hub', 'fabrikam-hub',
  'contoso-v1-hub', 'contoso-v2-hub', 'contoso-quarantine-hub', 'hub-a', 'hub-b', 'hub-c'
]

// configuration returns the configuration of the stand-in, with the groups that the starter rules name. JSON is YAML.
function configuration(keys, secrets) {
  const symmetric = (id, more) => ({
    enrollmentGroupId: id,
    attestation: { type: 'symmetricKey', symmetricKey: { primaryKey: keys[id], secondaryKey: randomBytes(32).toString('base64') } },
    allocationPolicy: 'custom',
    ...more
  })
  return JSON.stringify({
    name: 'e2e',
    idScope: '0ne000e2e00',
    ...secrets,
    hubs: hubs.map((name) => ({ name })),
    enrollmentGroups: [
      symmetric('contoso-custom-allocated-devices', {
        iotHubs: hubs.slice(0, 2), reprovisionPolicy: 'migrate', initialTwin: { tags: { building: 'main' } }
      }),
      symmetric('staged-devices', { iotHubs: ['contoso-v1-hub'], reprovisionPolicy: 'migrate' }),
      symmetric('issued-devices', { allocationPolicy: 'hashed', iotHubs: ['contoso-v2-hub'], certificatePolicyName: 'floor-1' }),
      symmetric('field-devices', { iotHubs: ['hub-a', 'hub-b', 'contoso-quarantine-hub'], reprovisionPolicy: 'reset' }),
      {
        enrollmentGroupId: 'tenant-devices',
        attestation: { type: 'x509', x509: { signingCertificates: { primary: { certificateFile: 'pki/device-ca.pem' } } } },
        allocationPolicy: 'custom'
      }
    ]
  }, null, 2)
}

// startFaultyWebhooks serves webhooks with answers that no rule gives.
function startFaultyWebhooks() {
  const server = createServer((request, response) => {
    request.resume()
    const [status, body] = { '/401': [401, ''], '/no-hub': [200, '{"iotHubHostName":""}'] }[request.url] ?? [404, '']
    response.writeHead(status).end(body)
  })
  return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server)))
}

async function main() {
  install()
  if (!existsSync(usher)) throw new Error('bin/usher is missing: run make e2e, which builds it')
  const folder = mkdtempSync(join(tmpdir(), 'usher-e2e-'))
  const faulty = await startFaultyWebhooks()
  try {
    const pki = join(folder, 'pki')
    const keys = Object.fromEntries(['contoso-custom-allocated-devices', 'staged-devices', 'issued-devices', 'field-devices']
      .map((id) => [id, randomBytes(32).toString('base64')]))
    const secrets = { serviceKey: randomBytes(32).toString('base64'), hubKey: randomBytes(32).toString('base64') }
    const certificates = makeCertificates(pki, join(folder, 'foreign'))
    const config = join(folder, 'dps.yaml')
    writeFileSync(config, configuration(keys, secrets), { mode: 0o600 })

    const [[, tutorial], [, webhook]] = await Promise.all([
      start('tutorial webhook', process.execPath, [join(here, 'tutorial-webhook.mjs')], /^(http:.*)$/),
      start('usher host', usher, ['host', '--root', root, '--port', '0'], /^POST (\S+)/)
    ])
    const usual = await free(443) && await free(8883)
    const journal = join(folder, 'journal.ndjson')
    await start('usher dps', usher, [
      'dps', '--config', config, '--folder', pki, '--webhook', webhook, '--journal', journal,
      '--time-scale', String(timeScale), ...(usual ? [] : ['--https', '0', '--mqtt', '0'])
    ], /^Made-up devices/)
    const { https, mqtt } = JSON.parse(readFileSync(join(pki, 'running.json'), 'utf8'))
    console.log(`e2e: HTTPS on ${https}, MQTT on ${mqtt}${usual ? ', the ports of Azure' : ': the ports of Azure are in use, and the preload redirects to these'}`)

    const stack = join(folder, 'stack.json')
    writeFileSync(stack, JSON.stringify({
      idScope: '0ne000e2e00', keys, certificates, webhook, tutorial, usher, root, config, pki, journal, timeScale,
      dpsConnectionString: `HostName=e2e.azure-devices-provisioning.net;SharedAccessKeyName=provisioningserviceowner;SharedAccessKey=${secrets.serviceKey}`,
      hubKey: secrets.hubKey,
      faulty: `http://127.0.0.1:${faulty.address().port}`,
      management: `https://localhost:${https}`, https, mqtt,
      printed: children.find(({ name }) => name === 'usher dps').output
    }), { mode: 0o600 })
    const files = readdirSync(here).filter((name) => name.endsWith('.test.mjs')).sort().map((name) => join(here, name))
    const chosen = process.argv.length > 2 ? files.filter((file) => process.argv.slice(2).some((word) => file.includes(word))) : files
    const tests = spawn(process.execPath, ['--test', '--test-reporter=spec', ...chosen], {
      stdio: 'inherit',
      env: {
        ...process.env,
        USHER_E2E_STACK: stack,
        NODE_EXTRA_CA_CERTS: join(pki, 'ca.pem'),
        NODE_OPTIONS: `--require ${join(pki, 'loopback.cjs')} --no-deprecation`
      }
    })
    const code = await new Promise((resolve) => tests.on('exit', resolve))
    if (code !== 0) {
      for (const { name, output } of children) console.error(`\n--- ${name}\n${output.slice(-Number(process.env.USHER_E2E_LINES ?? 60)).join('\n')}`)
      fail('tests failed')
    }
  } finally {
    await stop()
    faulty.close()
    rmSync(folder, { recursive: true, force: true })
  }
}

main().catch((err) => fail(err.message))
