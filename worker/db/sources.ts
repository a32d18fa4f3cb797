/**
 * The PL/pgSQL functions, views and storage parameters in `src/db/sql` are installed by migrations that are generated
 * from them. A migration carries each changed file whole, under a marker line; the newest block of a file wins.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..')
const SOURCES_DIR = join(root, 'src', 'db', 'sql')
/** Shipped beside the compiled code, so that it is found from a checkout and from an installed package alike. */
export const MIGRATIONS_DIR = join(root, 'src', 'db', 'migrations')

const MARKER = '-- installed from: '
const BREAKPOINT = '\n--> statement-breakpoint\n'

export interface SqlSource {
	readonly file: string
	readonly text: string
}

/** All source files, in the order in which they have to be installed. */
function readSources(): SqlSource[] {
	return readdirSync(SOURCES_DIR)
		.filter((file) => file.endsWith('.sql'))
		.sort()
		.map((file) => ({ file, text: readFileSync(join(SOURCES_DIR, file), 'utf8').trim() }))
}

/** The text of each source file as the migrations install it. */
function installedSources(): Map<string, string> {
	const installed = new Map<string, string>()
	for (const migration of readdirSync(MIGRATIONS_DIR)
		.filter((file) => file.endsWith('.sql'))
		.sort()) {
		for (const block of readFileSync(join(MIGRATIONS_DIR, migration), 'utf8').split(BREAKPOINT)) {
			const [first, ...rest] = block.trim().split('\n')
			if (first?.startsWith(MARKER)) installed.set(first.slice(MARKER.length), rest.join('\n').trim())
		}
	}
	return installed
}

/** Source files that no migration installs as they are now. */
export function changedSources(): SqlSource[] {
	const installed = installedSources()
	return readSources().filter(({ file, text }) => installed.get(file) !== text)
}

/** The body of a migration that installs these files. */
export function installationOf(sources: readonly SqlSource[]): string {
	return `${sources.map(({ file, text }) => `${MARKER}${file}\n${text}`).join(BREAKPOINT)}\n`
}
