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

/** Calls `onEnd` once, and ends nothing itself, when the npm script that this process runs in has ended. Does nothing outside of one. */
export function whenScriptEnds(scriptProcess: ScriptProcess, onEnd: () => void): void {
	if (scriptProcess.env['npm_lifecycle_event'] === undefined) return
	const shell = scriptProcess.ppid
	const look = setInterval(() => {
		if (scriptProcess.ppid === shell) return
		clearInterval(look)
		onEnd()
	}, LOOK_EVERY_MS)
}
