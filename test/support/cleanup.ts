/**
 * What must be gone when this process is: named here the moment it exists, and ended by a second process that
 * outlives this one (see `reaper.js`), because no handler runs in a process that is killed.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { chmodSync, mkdtempSync, realpathSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { processStart } from './process-start.js'

let reaper: ChildProcess | undefined

function tellReaper(line: object): void {
	if (reaper === undefined) {
		// A session of its own: Ctrl-C in the terminal must not end it first.
		reaper = spawn(process.execPath, [fileURLToPath(new URL('reaper.js', import.meta.url))], {
			detached: true,
			stdio: ['pipe', 'ignore', 'ignore'],
			env: { PATH: process.env['PATH'], DOCKER_HOST: process.env['DOCKER_HOST'] },
		})
		reaper.unref()
		// Its stdin is a socket underneath, which may keep this process alive.
		const { stdin } = reaper
		if (stdin !== null && 'unref' in stdin && typeof stdin.unref === 'function') stdin.unref()
		stdin?.on('error', () => {})
		// A test file's process would go on without vitest's main process, if that is killed in the middle of a test.
		process.once('disconnect', () => process.exit(1))
	}
	reaper.stdin?.write(`${JSON.stringify(line)}\n`)
}

/**
 * Makes sure that the process does not outlive this one.
 *
 * @param signal sent first; SIGKILL follows after three seconds.
 */
export function reapProcess(pid: number, signal: NodeJS.Signals = 'SIGKILL'): void {
	tellReaper({ add: { pid, started: processStart(pid), signal } })
}

/** The process has ended; its number may be given to another. */
export function forgetProcess(pid: number): void {
	tellReaper({ forget: pid })
}

export function reapContainer(name: string): void {
	tellReaper({ container: name })
}

export function forgetContainer(name: string): void {
	tellReaper({ forgetContainer: name })
}

/** An empty folder that goes away with this process. Servers that run as another user can pass through it. */
export function freshFolder(purpose = 'test'): string {
	const folder = mkdtempSync(join(realpathSync(tmpdir()), `flowcraft-outbox-${purpose}-`))
	tellReaper({ folder })
	chmodSync(folder, 0o711)
	return folder
}
