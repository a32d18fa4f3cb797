/**
 * Ends what its parent started, when the parent is gone in whatever way: normal exit, uncaught error, SIGKILL.
 * The parent writes one JSON line for each thing it starts or has ended itself; the end of that stream is the news
 * of its death. Plain JavaScript, so that it starts fast.
 *
 * @typedef {{ pid: number, started: string | undefined, signal: NodeJS.Signals }} Process
 * @typedef {{ add: Process } | { forget: number } | { folder: string } | { container: string } | { forgetContainer: string }} Line
 */
import { execFileSync } from 'node:child_process'
import { rmSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { processStart } from './process-start.js'

const PATIENCE_MS = 3_000

/** @type {Map<number, Process>} */
const processes = new Map()
/** @type {Set<string>} */
const folders = new Set()
/** @type {Set<string>} */
const containers = new Set()

for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP'])) process.on(signal, () => {})

for await (const text of createInterface({ input: process.stdin })) {
	/** @type {Line} */
	const line = JSON.parse(text)
	if ('add' in line) processes.set(line.add.pid, line.add)
	else if ('forget' in line) processes.delete(line.forget)
	else if ('folder' in line) folders.add(line.folder)
	else if ('container' in line) containers.add(line.container)
	else containers.delete(line.forgetContainer)
}

for (const { pid, signal } of alive()) kill(pid, signal)
const deadline = Date.now() + PATIENCE_MS
while (alive().length > 0 && Date.now() < deadline) await delay(20)
for (const { pid } of alive()) kill(pid, 'SIGKILL')
while (alive().length > 0 && Date.now() < deadline + PATIENCE_MS) await delay(20)

if (containers.size > 0) {
	try {
		execFileSync('docker', ['rm', '--force', '--volumes', ...containers], { stdio: 'ignore' })
	} catch {
		// Docker has gone away; nothing to tell anybody.
	}
}
for (const folder of folders)
	rmSync(folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 })

/** Those that are still the process that was named: a number may have gone to a stranger since. */
function alive() {
	return [...processes.values()].filter(({ pid, started }) => {
		const now = processStart(pid)
		return now !== undefined && (started === undefined || now === started)
	})
}

/** @param {number} pid @param {NodeJS.Signals} signal */
function kill(pid, signal) {
	try {
		process.kill(pid, signal)
		// A stopped process acts on nothing but SIGKILL until it is woken.
		process.kill(pid, 'SIGCONT')
	} catch {
		// It ended by itself.
	}
}
