/**
 * Makes what is deployed of an entry: one file with everything in it, and what its host wants to find beside it.
 *
 *   npm run bundle            all of them, into bundles/
 *   npm run bundle -- vercel  one of them
 */
import { mkdir, writeFile } from 'node:fs/promises'
import { isBuiltin } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'
import { build, type BuildOptions, type Metafile, type Plugin } from 'esbuild'

const PROJECT_ROOT = fileURLToPath(new URL('../..', import.meta.url))

export interface HostBundle {
	readonly entry: string
	/** Of the bundle, under the folder that all of them share. */
	readonly file: string
	readonly options: BuildOptions
	/** Further files, as JSON. */
	readonly beside?: Readonly<Record<string, unknown>>
}

/** Deno wants Node's modules under their full names, and the others take them too. */
const fullNames: Plugin = {
	name: 'full names of built-in modules',
	setup({ onResolve }) {
		onResolve({ filter: /^[a-z_]+(\/[a-z_]+)*$/ }, ({ path }) =>
			isBuiltin(path) ? { path: `node:${path}`, external: true } : undefined,
		)
	},
}

const NODE_LIKE: BuildOptions = {
	platform: 'node',
	target: 'node20',
	plugins: [fullNames],
}

const WORKERS: BuildOptions = {
	platform: 'neutral',
	mainFields: ['module', 'main'],
	conditions: ['workerd', 'worker', 'browser'],
	// What the host provides; anything else that cannot be bundled fails the build.
	external: ['cloudflare:sockets', 'node:*'],
}

/** In seconds. A request may wait for 60 s; waiting costs no CPU time. */
const VERCEL_MAX_DURATION_S = 75

export const HOST_BUNDLES = {
	node: { entry: 'functions/node.ts', file: 'node/server.mjs', options: NODE_LIKE },
	'aws-lambda': {
		entry: 'functions/hosts/aws-lambda.ts',
		file: 'aws-lambda/index.mjs',
		options: NODE_LIKE,
	},
	vercel: {
		entry: 'functions/hosts/vercel.ts',
		// https://vercel.com/docs/build-output-api
		file: 'vercel/.vercel/output/functions/index.func/index.mjs',
		options: NODE_LIKE,
		beside: {
			'vercel/.vercel/output/functions/index.func/.vc-config.json': {
				runtime: 'nodejs22.x',
				handler: 'index.mjs',
				launcherType: 'Nodejs',
				shouldAddHelpers: false,
				supportsResponseStreaming: true,
				maxDuration: VERCEL_MAX_DURATION_S,
			},
			'vercel/.vercel/output/config.json': { version: 3, routes: [{ src: '/.*', dest: '/index' }] },
		},
	},
	cloudflare: { entry: 'functions/hosts/cloudflare.ts', file: 'cloudflare/worker.mjs', options: WORKERS },
	deno: { entry: 'functions/hosts/deno.ts', file: 'deno/server.mjs', options: NODE_LIKE },
	bun: { entry: 'functions/hosts/bun.ts', file: 'bun/server.mjs', options: NODE_LIKE },
} as const satisfies Record<string, HostBundle>
export type HostName = keyof typeof HOST_BUNDLES

export interface Bundled {
	/** Where it lies. */
	readonly file: string
	readonly gzipBytes: number
	readonly metafile: Metafile
}

/** Writes the files of one host under `folder`. @throws what esbuild says */
export async function bundleHost(name: HostName, folder: string): Promise<Bundled> {
	const bundle: HostBundle = HOST_BUNDLES[name]
	const file = join(folder, bundle.file)
	const { metafile, outputFiles } = await build({
		...bundle.options,
		absWorkingDir: PROJECT_ROOT,
		entryPoints: [bundle.entry],
		outfile: file,
		bundle: true,
		minify: true,
		format: 'esm',
		metafile: true,
		write: false,
		logLevel: 'silent',
	})
	const files = new Map<string, Uint8Array | string>(
		outputFiles.map(({ path, contents }) => [path, contents] as const),
	)
	for (const [path, value] of Object.entries(bundle.beside ?? {}))
		files.set(join(folder, path), `${JSON.stringify(value, null, '\t')}\n`)
	for (const [path, contents] of files) {
		await mkdir(dirname(path), { recursive: true })
		await writeFile(path, contents)
	}
	const gzipBytes = outputFiles.reduce((total, { contents }) => total + gzipSync(contents).byteLength, 0)
	return { file, gzipBytes, metafile }
}
