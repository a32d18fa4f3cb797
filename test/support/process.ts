/** Real processes: what they print, how they end, and nothing left of them when the tests are over. */
import { type ChildProcess, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { forgetProcess, reapProcess } from './cleanup.js'
import { compiledFile } from './compiled.js'

export const PROJECT_ROOT = fileURLToPath(new URL('../..', import.meta.url))

/** Ends with the exit code, or with the signal that ended it. */
export interface Exit {
	readonly code: number | null
	readonly signal: NodeJS.Signals | null
}

export interface RunningProcess {
	readonly pid: number
	/** What it has printed so far, stdout and stderr mixed in order of arrival, the oldest beyond 20,000 lines dropped. */
	readonly lines: readonly string[]
	/** The last lines, for messages. */
	tail(lines?: number): string
	/** `undefined` while it runs. */
	readonly exit: Exit | undefined
	/** Resolves when it has ended and everything that it printed is in `lines`. Never rejects. */
	readonly exited: Promise<Exit>
	/**
	 * Resolves with the first line, printed already or still to come, that matches.
	 *
	 * @throws when the process ends without it or the deadline (default 30000 ms) passes; the message has the tail.
	 */
	waitForLine(pattern: string | RegExp, options?: { readonly deadlineMs?: number }): Promise<string>
	/** Sends the signal, SIGKILL by default. Resolves when the process has ended, if the signal is one that ends it. */
	kill(signal?: NodeJS.Signals): Promise<void>
	/**
	 * SIGTERM, and after the deadline (default 15000 ms) SIGKILL. Does nothing to a process that has ended.
	 *
	 * @throws if it had to be killed: what should stop in order did not.
	 */
	stop(options?: { readonly deadlineMs?: number }): Promise<Exit>
}

export interface SpawnOptions {
	/** A TypeScript file, relative to the project's folder. */
	readonly entry: string
	readonly args?: readonly string[]
	/** Of Node itself. */
	readonly nodeArgs?: readonly string[]
	/** The whole environment besides PATH, HOME and the like: a developer's DATABASE_URL must not leak in. */
	readonly env?: Readonly<Record<string, string | undefined>>
	/** Resolve only when a line matches; without it, as soon as the process runs. */
	readonly readyLine?: string | RegExp
	/** How long to wait for `readyLine`, in ms. Default 30000. */
	readonly deadlineMs?: number
}

/**
 * Runs a program of this project as it would run in production: compiled. So is the module that `WORKFLOWS` names.
 */
export async function spawnProcess(options: SpawnOptions): Promise<RunningProcess> {
	const { entry, args = [], nodeArgs = [], env = {}, readyLine, deadlineMs = 30_000 } = options
	const running = spawnProgram({
		name: entry,
		command: process.execPath,
		args: ['--enable-source-maps', ...nodeArgs, await compiledFile(entry), ...args],
		env: {
			...env,
			...(env['WORKFLOWS'] === undefined ? {} : { WORKFLOWS: await compiledFile(env['WORKFLOWS']) }),
		},
	})
	await showOutputIfTestFails(running, entry)
	if (readyLine !== undefined) {
		try {
			await running.waitForLine(readyLine, { deadlineMs })
		} catch (error) {
			await running.kill()
			throw error
		}
	}
	return running
}

export interface ProgramOptions {
	/** For messages. */
	readonly name: string
	readonly command: string
	readonly args: readonly string[]
	readonly env?: Readonly<Record<string, string | undefined>>
	readonly ids?: { readonly uid?: number; readonly gid?: number }
	/** Default: the project's folder. */
	readonly cwd?: string
}

const KEPT_LINES = 20_000
/** Of the caller's environment: what programs need to run at all. */
const KEPT_VARIABLES = [
	'PATH',
	'HOME',
	'TMPDIR',
	'LANG',
	'TZ',
	'NODE_V8_COVERAGE',
	'NODE_EXTRA_CA_CERTS',
	'SystemRoot',
]
const SIGNALS_THAT_END: readonly NodeJS.Signals[] = [
	'SIGKILL',
	'SIGTERM',
	'SIGINT',
	'SIGQUIT',
	'SIGABRT',
	'SIGHUP',
]

/** Runs any program. It leads a session of its own, so that Ctrl-C in a terminal reaches the tests only. */
export function spawnProgram(options: ProgramOptions): RunningProcess {
	const { name } = options
	const kept = Object.fromEntries(KEPT_VARIABLES.map((variable) => [variable, process.env[variable]]))
	const child = spawn(options.command, options.args, {
		...options.ids,
		cwd: options.cwd ?? PROJECT_ROOT,
		env: { ...kept, ...options.env },
		detached: true,
		stdio: ['ignore', 'pipe', 'pipe'],
	})
	const { pid } = child
	if (pid !== undefined) reapProcess(pid)

	const lines: string[] = []
	const watchers = new Set<() => void>()
	const tell = (): void => {
		for (const watcher of watchers) watcher()
	}
	const add = (line: string): void => {
		lines.push(line)
		if (lines.length > KEPT_LINES) lines.splice(0, lines.length - KEPT_LINES)
		tell()
	}
	for (const stream of [child.stdout, child.stderr]) createInterface({ input: stream }).on('line', add)

	let exit: Exit | undefined
	const exited = endOf(child, add).then((end) => {
		exit = end
		if (pid !== undefined) forgetProcess(pid)
		tell()
		return end
	})
	const tail = (count = 40): string => lines.slice(-count).join('\n')
	const report = (problem: string): Error =>
		new Error(`${name} ${problem}. The end of its output:\n${tail()}`)

	return {
		pid: pid ?? -1,
		lines,
		tail,
		get exit() {
			return exit
		},
		exited,
		waitForLine(pattern, { deadlineMs = 30_000 } = {}) {
			const matches = (line: string): boolean =>
				typeof pattern === 'string' ? line.includes(pattern) : pattern.test(line)
			return new Promise((resolve, reject) => {
				let next = 0
				const settle = (action: () => void): void => {
					clearTimeout(timer)
					watchers.delete(look)
					action()
				}
				const look = (): void => {
					for (; next < lines.length; next += 1) {
						const line = lines[next] ?? ''
						if (matches(line)) return settle(() => resolve(line))
					}
					if (exit !== undefined)
						settle(() =>
							reject(report(`ended (${nameOf(exit)}) before it printed ${String(pattern)}`)),
						)
				}
				const timer = setTimeout(() => {
					settle(() => reject(report(`did not print ${String(pattern)} within ${deadlineMs} ms`)))
				}, deadlineMs)
				watchers.add(look)
				look()
			})
		},
		async kill(signal = 'SIGKILL') {
			child.kill(signal)
			if (SIGNALS_THAT_END.includes(signal)) await exited
		},
		async stop({ deadlineMs = 15_000 } = {}) {
			child.kill('SIGTERM')
			const patience = new AbortController()
			const late = delay(deadlineMs, 'late' as const, { signal: patience.signal })
			late.catch(() => {})
			const end = await Promise.race([exited, late])
			patience.abort()
			if (end !== 'late') return end
			child.kill('SIGKILL')
			await exited
			throw report(`did not stop within ${deadlineMs} ms of SIGTERM and was killed`)
		},
	}
}

function endOf(child: ChildProcess, add: (line: string) => void): Promise<Exit> {
	return new Promise((resolve) => {
		child.once('error', (error) => {
			add(error.message)
			if (child.pid === undefined) resolve({ code: null, signal: null })
		})
		// `close` comes after the last of its output. A child of its own that still holds the pipes must not delay it.
		child.once('exit', (code, signal) => {
			const end = { code, signal }
			const giveUp = setTimeout(() => resolve(end), 1_000)
			child.once('close', () => {
				clearTimeout(giveUp)
				// The last lines reach their readers in the same turn.
				setImmediate(() => resolve(end))
			})
		})
	})
}

export function nameOf(exit: Exit | undefined): string {
	if (exit === undefined) return 'still running'
	if (exit.signal !== null) return exit.signal
	return exit.code === null ? 'could not be started' : `exit code ${exit.code}`
}

/** The assertion that failed is rarely the reason; what the process said often is. */
async function showOutputIfTestFails(running: RunningProcess, name: string): Promise<void> {
	if (process.env['VITEST'] === undefined) return
	const { onTestFailed } = await import('vitest')
	try {
		onTestFailed(() =>
			console.error(
				`The end of the output of ${name} (process ${running.pid}, ${nameOf(running.exit)}):\n${running.tail()}`,
			),
		)
	} catch {
		// Started in a hook, for many tests: their own errors have to do.
	}
}
