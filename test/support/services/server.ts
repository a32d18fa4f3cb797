/** A private server of the tests: started on a free port and a folder of its own, and theirs to mistreat. */
import { setTimeout as delay } from 'node:timers/promises'

export interface PrivateServer {
	/** The same over restarts. */
	readonly url: string
	readonly port: number
	/** Of the process to signal; another one after each restart. 0 while it does not run. */
	readonly pid: number
	/** SIGKILL by default. Resolves when the server is gone, if the signal is one that ends it. */
	kill(signal?: NodeJS.Signals): Promise<void>
	/** Stops it in order. Its data stay. */
	stop(): Promise<void>
	/** Stops it in order if it runs, and starts it again on the same port and data; resolves when it answers. */
	restart(): Promise<void>
	/** Ends it and deletes its data. What is not removed goes away with the process that started it. */
	remove(): Promise<void>
	/** The end of what the server said. */
	log(): string
}

export const SIGNALS_THAT_END: readonly NodeJS.Signals[] = [
	'SIGKILL',
	'SIGTERM',
	'SIGINT',
	'SIGQUIT',
	'SIGABRT',
]

/** Tries until it works; the last error is thrown when the deadline has passed or the server has ended. */
export async function answers(
	ask: () => Promise<unknown>,
	deadlineMs: number,
	hasEnded: () => boolean,
): Promise<void> {
	const deadline = Date.now() + deadlineMs
	for (;;) {
		try {
			await ask()
			return
		} catch (error) {
			if (Date.now() > deadline || hasEnded()) throw error
			await delay(20)
		}
	}
}
