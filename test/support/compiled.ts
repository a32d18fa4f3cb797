/**
 * The project as JavaScript, for the processes that tests start: from TypeScript each of them would spend a second of a
 * processor on loading itself. Compiled once for each state of the sources, file by file, so that everything lies where it
 * lies in the project.
 */
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { copyFile, mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { dirname, extname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { transform, version } from 'esbuild'

const PROJECT_ROOT = fileURLToPath(new URL('../..', import.meta.url))
/** Below `node_modules`, where packages are found from as from the project. */
const CACHE = join(PROJECT_ROOT, 'node_modules', '.cache', 'flowcraft-outbox')
const FOLDERS = ['src', 'functions', 'worker', 'test']
/** Of other states of the sources, in ms: a soak may still run from it. */
const KEPT_MS = 24 * 3_600_000

let compiled: Promise<string> | undefined

/** The compiled form of a TypeScript file, named relative to the project's folder; an absolute path. */
export async function compiledFile(file: string): Promise<string> {
	compiled ??= compile()
	return join(await compiled, file.replace(/\.ts$/, '.js'))
}

/** Resolves with the folder. Several processes may do this at once: whoever is first has made it. */
async function compile(): Promise<string> {
	const files = await sources()
	const hash = createHash('sha256').update(version)
	for (const { name, content } of files) hash.update(`\0${name}\0`).update(content)
	const folder = join(CACHE, hash.digest('hex').slice(0, 16))
	if (existsSync(folder)) return folder

	const draft = `${folder}.${process.pid}`
	await mkdir(draft, { recursive: true })
	await writeFile(join(draft, 'package.json'), '{ "type": "module" }')
	await Promise.all(files.map(({ name, content }) => write(draft, name, content)))
	await rename(draft, folder).catch(async (error: unknown) => {
		await rm(draft, { recursive: true })
		if (!existsSync(folder)) throw error
	})
	await forgetOldOnes(folder)
	return folder
}

async function sources(): Promise<{ name: string; content: Buffer }[]> {
	const found = await Promise.all(
		FOLDERS.map(async (folder) =>
			(await readdir(join(PROJECT_ROOT, folder), { recursive: true, withFileTypes: true }))
				.filter((entry) => entry.isFile())
				.map((entry) => join(entry.parentPath, entry.name).slice(PROJECT_ROOT.length)),
		),
	)
	return Promise.all(
		found
			.flat()
			.sort()
			.map(async (name) => ({ name, content: await readFile(join(PROJECT_ROOT, name)) })),
	)
}

async function write(folder: string, name: string, content: Buffer): Promise<void> {
	const target = join(folder, name)
	await mkdir(dirname(target), { recursive: true })
	if (extname(name) !== '.ts') return copyFile(join(PROJECT_ROOT, name), target)
	const { code, map } = await transform(content.toString(), {
		loader: 'ts',
		target: 'node20',
		sourcemap: 'external',
		sourcefile: join(PROJECT_ROOT, name),
	})
	const file = target.replace(/\.ts$/, '.js')
	await writeFile(`${file}.map`, map)
	await writeFile(
		file,
		`${code}//# sourceMappingURL=${encodeURIComponent(file.slice(file.lastIndexOf('/') + 1))}.map\n`,
	)
}

async function forgetOldOnes(current: string): Promise<void> {
	for (const name of await readdir(CACHE)) {
		const folder = join(CACHE, name)
		if (folder === current) continue
		const { mtimeMs } = await stat(folder)
		if (Date.now() - mtimeMs > KEPT_MS) await rm(folder, { recursive: true, force: true })
	}
}
