/**
 * Loads the module that `WORKFLOWS` names. It is somebody's own code and data: whatever is wrong with it is a fault of the
 * environment, told by the name of the file and of the blueprint, before anything is started.
 */
import { existsSync } from 'node:fs'
import { dirname, extname, sep } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { validateBlueprint } from '../src/blueprint/validate.js'
import { EnvironmentError } from '../src/environment.js'
import { InvalidInputError } from '../src/errors.js'
import { noLogger } from '../src/ports/logger.js'
import { createWorkflows, type WorkflowsModule } from './execution/workflows.js'

/**
 * @param file an absolute path; the bundled examples without it
 * @throws EnvironmentError if it cannot be loaded, exports no blueprints, or one that is not valid
 */
export async function loadWorkflows(file: string | undefined): Promise<WorkflowsModule> {
	if (file === undefined) return import('./workflows/index.js')
	const exported = await importFrom(file)
	const workflows =
		exported.blueprints === undefined && exported.default !== undefined ? exported.default : exported
	if (workflows.blueprints === undefined)
		throw new EnvironmentError([`WORKFLOWS names ${file}, which exports no 'blueprints'`])
	const faults = faultsOf(workflows)
	if (faults.length > 0)
		throw new EnvironmentError(faults.map((fault) => `WORKFLOWS names ${file}: ${fault}`))
	return workflows
}

async function importFrom(file: string): Promise<WorkflowsModule & { readonly default?: WorkflowsModule }> {
	try {
		return (await import(pathToFileURL(file).href)) as WorkflowsModule
	} catch (error) {
		// What the module itself found wrong with the environment stands under its own variable.
		if (error instanceof EnvironmentError) throw error
		const place = placeIn(error, dirname(file))
		throw new EnvironmentError([
			[
				`WORKFLOWS cannot be loaded from ${file}: ${messageOf(error)}`,
				...(place === undefined ? [] : [`    at ${place}`]),
				...(needsTsx(file, error)
					? ['    TypeScript is loaded with node --import tsx; or compile it before.']
					: []),
			].join('\n'),
		])
	}
}

/** Where in somebody's own files an error came up, as far as its stack tells. */
function placeIn(error: unknown, folder: string): string | undefined {
	const stack = error instanceof Error ? (error.stack ?? '') : ''
	const places = stack.split('\n').flatMap((line) => {
		// `at f (file:1:2)`, `at file:1:2`, and for what cannot be parsed `file:1` before the message.
		const [, place] =
			/\((.+:\d+:\d+)\)$/.exec(line) ??
			/^\s+at (?:async )?(\S.*:\d+:\d+)$/.exec(line) ??
			/^(file:.+:\d+)$/.exec(line) ??
			[]
		if (place === undefined || place.startsWith('node:')) return []
		const path = place.startsWith('file:') ? fileURLToPath(place) : place
		return path.includes(`${sep}node_modules${sep}`) ||
			path.startsWith(`${fileURLToPath(import.meta.url)}:`)
			? []
			: [path]
	})
	return places.find((path) => path.startsWith(folder + sep)) ?? places[0]
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error))

/** What plain Node says of TypeScript that it does not load: some versions load none, others not all of it. */
const TYPESCRIPT_CODES = new Set([
	'ERR_UNKNOWN_FILE_EXTENSION',
	'ERR_INVALID_TYPESCRIPT_SYNTAX',
	'ERR_UNSUPPORTED_TYPESCRIPT_SYNTAX',
])

function needsTsx(file: string, error: unknown): boolean {
	if (!['.ts', '.mts', '.cts', '.tsx'].includes(extname(file))) return false
	if (!(error instanceof Error) || !('code' in error)) return false
	if (TYPESCRIPT_CODES.has(String(error.code))) return true
	// `import './other.js'` means other.ts, to everybody but plain Node.
	const [, missing] = /Cannot find module '(.+)\.js'/.exec(error.message) ?? []
	return error.code === 'ERR_MODULE_NOT_FOUND' && missing !== undefined && existsSync(`${missing}.ts`)
}

/** Every fault of its blueprints, each with the name that it is exported under. */
function faultsOf(workflows: WorkflowsModule): string[] {
	const { blueprints } = workflows
	if (typeof blueprints !== 'object' || blueprints === null || Array.isArray(blueprints))
		return [`its 'blueprints' must be an object with each blueprint under its id`]
	try {
		createWorkflows({ ...workflows, blueprints: {} }, noLogger)
	} catch (error) {
		return [messageOf(error)]
	}
	return Object.entries(blueprints).flatMap(([name, source]) => {
		if (typeof source !== 'object' || source === null)
			return [
				`blueprint '${name}': is neither a blueprint nor a createFlow builder, but ${typeof source}`,
			]
		try {
			// One by one, so that whatever is thrown has a name.
			for (const blueprint of createWorkflows(
				{ ...workflows, blueprints: { [name]: source } },
				noLogger,
			).blueprints) {
				if (blueprint.id !== name)
					return [`blueprint '${name}': has the id '${blueprint.id}'; export it under its id`]
				validateBlueprint(blueprint)
			}
			return []
		} catch (error) {
			return error instanceof InvalidInputError
				? error.faults.map(({ path, message }) => `blueprint '${name}': ${path} ${message}`)
				: [`blueprint '${name}': ${messageOf(error)}`]
		}
	})
}
