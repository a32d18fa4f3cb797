/**
 * The end of the npm script that a process runs in. npm hands a SIGTERM to the shell of its script, and that shell hands it
 * to nobody: it ends, npm ends, and what ran in it goes on as an orphan. So that is taken for the signal.
 */

/** How often to look, in ms. */
const LOOK_EVERY_MS = 250

/** Of `process`, what this needs. */
export interface ScriptProcess {
	readonly env: Readonly<Record<string, string | undefined>>
	/** Of the process that started this one; another one adopts it when that ends. */
	readonly ppid: number
}

/**
 * Resolves when the npm script that this process runs in has ended; outside of one, never. To be called first of all: whose
 * child this process was before that cannot be known.
 */
export function scriptEnd(scriptProcess: ScriptProcess): Promise<void> {
	if (scriptProcess.env['npm_lifecycle_event'] === undefined) return new Promise(() => {})
	const shell = scriptProcess.ppid
	return new Promise((resolve) => {
		const look = setInterval(() => {
			if (scriptProcess.ppid === shell) return
			clearInterval(look)
			resolve()
		}, LOOK_EVERY_MS)
	})
}
