import { readFileSync } from 'node:fs'

/**
 * Tells two processes apart that had the same number one after the other.
 *
 * @param {number} pid
 * @returns {string | undefined} when the process started, in a form only good for comparison; `undefined` if there
 * is no such process, or only its corpse
 */
export function processStart(pid) {
	if (process.platform === 'linux') {
		try {
			// After the name, which may itself hold blanks and brackets: the state, and as the 20th field the start.
			const fields = readFileSync(`/proc/${pid}/stat`, 'latin1')
				.replace(/^.*\) /s, '')
				.split(' ')
			return fields[0] === 'Z' || fields[0] === 'X' ? undefined : fields[19]
		} catch {
			return undefined
		}
	}
	try {
		process.kill(pid, 0)
		return 'unknown'
	} catch (error) {
		return error instanceof Error && 'code' in error && error.code === 'EPERM' ? 'unknown' : undefined
	}
}
