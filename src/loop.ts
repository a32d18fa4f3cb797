/**
 * The one helper that owns sleeping, backoff, jitter and stopping. Every service of this system is a `tick()`
 * that does one round and returns how much it did; tests call `tick()`, processes call `runLoop(tick)`.
 */

export interface LoopOptions {
	/** One round. Returns how many things it did; 0 means idle. */
	readonly tick: (signal: AbortSignal) => Promise<number>
	/** Sleep after the first idle round, in ms. Default 20. */
	readonly minIdleMs?: number
	/** Idle sleeps double up to this, in ms. Default 100. */
	readonly maxIdleMs?: number
	/** Sleep after a failed round, doubled up to `maxErrorMs` with each failure in a row, jittered. Default 100. */
	readonly minErrorMs?: number
	/** Default 5000. */
	readonly maxErrorMs?: number
	/** Told of each failed round; the loop goes on. */
	readonly onError?: (error: unknown, failuresInARow: number) => void
}

export interface Loop {
	/** Ends the current sleep, or lets the next round follow the running one at once. */
	wake(): void
	/** Aborts the signal given to `tick`, lets the running round end, and resolves then. Idempotent. */
	stop(): Promise<void>
}

/** Runs `tick` until stopped: at once again while there is work, with growing sleeps while idle or failing. */
export function runLoop(options: LoopOptions): Loop {
	const { tick, minIdleMs = 20, maxIdleMs = 100, minErrorMs = 100, maxErrorMs = 5000, onError } = options
	const stopping = new AbortController()
	let wakeRequested = false
	let endSleep: (() => void) | undefined

	const sleep = (ms: number): Promise<void> =>
		new Promise((resolve) => {
			if (wakeRequested || stopping.signal.aborted) return resolve()
			const timer = setTimeout(done, ms)
			function done() {
				clearTimeout(timer)
				endSleep = undefined
				resolve()
			}
			endSleep = done
		})

	const run = async (): Promise<void> => {
		let idleMs = minIdleMs
		let failures = 0
		while (!stopping.signal.aborted) {
			wakeRequested = false
			let pauseMs = 0
			try {
				const done = await tick(stopping.signal)
				failures = 0
				if (done > 0) {
					idleMs = minIdleMs
				} else {
					pauseMs = idleMs
					idleMs = Math.min(idleMs * 2, maxIdleMs)
				}
			} catch (error) {
				if (stopping.signal.aborted) break
				failures += 1
				onError?.(error, failures)
				pauseMs = withJitter(Math.min(minErrorMs * 2 ** (failures - 1), maxErrorMs))
			}
			if (pauseMs > 0) await sleep(pauseMs)
			if (wakeRequested) idleMs = minIdleMs
		}
	}
	const finished = run()

	return {
		wake() {
			wakeRequested = true
			endSleep?.()
		},
		async stop() {
			stopping.abort()
			endSleep?.()
			await finished
		},
	}
}

/** Spreads `ms` evenly over 75 % to 125 % of itself, so that processes that failed together do not return together. */
export function withJitter(ms: number): number {
	return ms * (0.75 + Math.random() * 0.5)
}
