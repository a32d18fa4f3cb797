/** Each host's own program, running what is deployed there: the bundle of its entry, as `npm run bundle` makes it. */
import { existsSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { basename, dirname, join } from 'node:path'
import { bundleHost, type HostName } from '../../../functions/hosts/bundle.js'
import { freshFolder } from '../../support/cleanup.js'
import {
	type ProgramOptions,
	type RunningProcess,
	spawnProcess,
	spawnProgram,
} from '../../support/process.js'

export interface RunningHost {
	readonly url: string
	readonly process: RunningProcess
}

export interface Host {
	readonly name: string
	/** Whether a request is answered while another one waits in the same instance. */
	readonly concurrent: boolean
	/** Whether connections outlive requests. */
	readonly pools: boolean
	/** Whether an answer leaves while it is being made; otherwise it comes in one piece. */
	readonly streams: boolean
	/** Whether it is a process that is told to stop by SIGTERM. */
	readonly stops: boolean
	start(env: HostEnvironment): Promise<RunningHost>
}

interface HostEnvironment {
	readonly DATABASE_URL: string
	readonly [variable: string]: string
}

const bundles = new Map<HostName, Promise<string>>()
let folder: string | undefined

/** Made once for all tests of a file. */
function bundleOf(name: HostName): Promise<string> {
	folder ??= freshFolder('bundles')
	const into = folder
	let bundle = bundles.get(name)
	if (bundle === undefined) bundles.set(name, (bundle = bundleHost(name, into).then(({ file }) => file)))
	return bundle
}

const require = createRequire(import.meta.url)

/**
 * The program of a runtime that npm has installed. It lies in a package for this platform, from which an install script
 * may have moved it into the main one.
 */
function runtimeProgram(name: string, inMain: string, inPlatform: string): string {
	const manifest = require.resolve(`${name}/package.json`)
	const { optionalDependencies } = require(manifest) as { optionalDependencies: Record<string, string> }
	const folders = [dirname(dirname(manifest)), ...(require.resolve.paths(name) ?? [])]
	const candidates = Object.keys(optionalDependencies).flatMap((platform) =>
		folders.map((modules) => join(modules, platform, inPlatform)),
	)
	const found = [...candidates, join(dirname(manifest), inMain)].find((file) => existsSync(file))
	if (found === undefined) throw new Error(`npm has installed no ${name} for this platform`)
	return found
}

const EXE = process.platform === 'win32' ? '.exe' : ''

/** The programs, where they are. */
export const runtimes = {
	deno: () => runtimeProgram('deno', `deno${EXE}`, `deno${EXE}`),
	bun: () => runtimeProgram('bun', 'bin/bun.exe', `bin/bun${EXE}`),
	workerd: () => runtimeProgram('workerd', `bin/workerd${EXE}`, `bin/workerd${EXE}`),
} as const

async function spawnServer(
	options: ProgramOptions,
	readyLine: string,
	urlIn: (line: string) => string,
): Promise<RunningHost> {
	const running = spawnProgram(options)
	return { process: running, url: urlIn(await running.waitForLine(readyLine, { deadlineMs: 60_000 })) }
}

const urlOfLog = (line: string): string => (JSON.parse(line) as { url: string }).url
const urlOfWords = (line: string): string => line.split(' ').at(-1) ?? ''

const node: Host = {
	name: 'Node',
	concurrent: true,
	pools: true,
	streams: true,
	stops: true,
	start: async (env) =>
		spawnServer(
			{
				name: 'node',
				command: process.execPath,
				args: [await bundleOf('node')],
				env: { PORT: '0', ...env },
			},
			'"Listening"',
			urlOfLog,
		),
}

const lambda = (name: string, kind: string, handler: string): Host => ({
	name,
	concurrent: false,
	pools: true,
	streams: handler === 'streamingHandler',
	stops: false,
	async start(env) {
		const running = await spawnProcess({
			entry: 'test/functions/hosts/lambda.main.ts',
			args: [await bundleOf('aws-lambda'), kind, handler],
			env,
		})
		const line = await running.waitForLine('listening on', { deadlineMs: 60_000 })
		return { process: running, url: urlOfWords(line) }
	},
})

const vercel: Host = {
	name: 'Vercel',
	concurrent: true,
	pools: true,
	streams: true,
	stops: false,
	async start(env) {
		const running = await spawnProcess({
			entry: 'test/functions/hosts/vercel.main.ts',
			args: [await bundleOf('vercel')],
			env,
		})
		const line = await running.waitForLine('listening on', { deadlineMs: 60_000 })
		return { process: running, url: urlOfWords(line) }
	},
}

const deno: Host = {
	name: 'Deno',
	concurrent: true,
	pools: true,
	streams: true,
	stops: true,
	start: async (env) =>
		spawnServer(
			{
				name: 'deno',
				command: runtimes.deno(),
				args: [
					'run',
					'--no-lock',
					'--no-prompt',
					'--cached-only',
					'--allow-net',
					'--allow-env',
					await bundleOf('deno'),
				],
				env: { PORT: '0', DENO_DIR: freshFolder('deno'), DENO_NO_UPDATE_CHECK: '1', ...env },
			},
			'"Listening"',
			urlOfLog,
		),
}

const bun: Host = {
	name: 'Bun',
	concurrent: true,
	pools: true,
	streams: true,
	stops: true,
	start: async (env) =>
		spawnServer(
			{
				name: 'bun',
				command: runtimes.bun(),
				args: [await bundleOf('bun')],
				env: { PORT: '0', ...env },
			},
			'"Listening"',
			urlOfLog,
		),
}

/** What wrangler.toml asks of the runtime, in the words of workerd. */
async function workerdCompatibility(): Promise<string> {
	const toml = await readFile(new URL('../../../functions/hosts/wrangler.toml', import.meta.url), 'utf8')
	const setting = (name: string): string | undefined => new RegExp(`^${name} = (.+)$`, 'm').exec(toml)?.[1]
	return `compatibilityDate = ${setting('compatibility_date')}, compatibilityFlags = ${setting('compatibility_flags')},`
}

/** A text as Cap'n Proto writes it: as C does. */
const capnpText = (text: string): string => `"${text.replace(/[\\"]/g, '\\$&')}"`

/** A variable of a worker's, as `workerdConfiguration` takes it. */
export const textBinding = ([name, text]: readonly [name: string, text: string]): string =>
	`(name = ${capnpText(name)}, text = ${capnpText(text)})`

/**
 * How workerd serves a worker on a free port, in the words of Cap'n Proto.
 * @param worker its bundle; the configuration has to lie beside it
 * @param services beside the worker and the network
 */
export async function workerdConfiguration(
	worker: string,
	bindings: readonly string[],
	services: readonly string[] = [],
): Promise<string> {
	return `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
	services = [
		(name = "worker", worker = (
			modules = [(name = "worker", esModule = embed ${capnpText(basename(worker))})],
			${await workerdCompatibility()}
			globalOutbound = "network",
			bindings = [${bindings.join(', ')}],
		)),
		(name = "network", network = (allow = ["private", "public"])),
		${services.join(', ')}
	],
	sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "worker")],
);
`
}

/** @param throughHyperdrive reaches Postgres through a binding, not by its URL */
const cloudflare = (name: string, throughHyperdrive: boolean): Host => ({
	name,
	concurrent: true,
	pools: false,
	streams: true,
	stops: false,
	async start({ DATABASE_URL, ...env }) {
		const worker = await bundleOf('cloudflare')
		const database = new URL(DATABASE_URL)
		const variables = throughHyperdrive ? env : { DATABASE_URL, ...env }
		const bindings = Object.entries(variables).map(textBinding)
		if (throughHyperdrive)
			bindings.push(
				`(name = "HYPERDRIVE", hyperdrive = (designator = "postgres", database = ${capnpText(database.pathname.slice(1))}, user = ${capnpText(database.username)}, password = ${capnpText(database.password || 'none')}, scheme = "postgresql"))`,
			)
		// Beside the bundle, which it takes in.
		const configuration = `${worker}.${database.port}.${throughHyperdrive ? 'hyperdrive' : 'direct'}.capnp`
		await writeFile(
			configuration,
			await workerdConfiguration(worker, bindings, [
				`(name = "postgres", external = (address = ${capnpText(database.host)}, tcp = ()))`,
			]),
		)
		return spawnServer(
			{
				name: 'workerd',
				command: runtimes.workerd(),
				// Says on its standard output where it listens.
				args: ['serve', '--control-fd=1', configuration],
			},
			'"listen"',
			(line) => `http://127.0.0.1:${(JSON.parse(line) as { port: number }).port}`,
		)
	},
})

export const HOSTS: readonly Host[] = [
	node,
	lambda('AWS Lambda behind API Gateway', 'api-gateway', 'handler'),
	lambda('AWS Lambda with a function URL that streams', 'function-url', 'streamingHandler'),
	vercel,
	cloudflare('Cloudflare Workers', false),
	cloudflare('Cloudflare Workers with Hyperdrive', true),
	deno,
	bun,
]
