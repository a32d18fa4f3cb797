/** Waiting that always ends: whatever is asked of a broker has a deadline. */

/** The broker did not answer in time. What was asked may still happen. */
class DeadlineError extends Error {
	constructor(what: string, ms: number) {
		super(`${what}: no answer within ${Math.round(ms)} ms`)
		this.name = 'DeadlineError'
	}
}

/** `promise`, or a `DeadlineError` after `ms`. A later rejection of `promise` is swallowed. */
export function withDeadline<T>(promise: Promise<T>, ms: number, what: string): Promise<T> {
	return new Promise<T>((resolve, reject) => {
		const timer = setTimeout(() => reject(new DeadlineError(what, ms)), ms)
		promise.then(resolve, reject).finally(() => clearTimeout(timer))
	})
}

/** A point in time (`performance.now()`), and what is left until then. */
export class Deadline {
	readonly #at: number

	constructor(ms: number) {
		this.#at = performance.now() + ms
	}

	/** Never negative. */
	remainingMs(): number {
		return Math.max(0, this.#at - performance.now())
	}
}

/** Lets any number of waiters look again whenever something has changed. */
export class ChangeSignal {
	readonly #waiting = new Set<() => void>()

	notify(): void {
		for (const wake of [...this.#waiting]) wake()
	}

	/** Resolves at the next `notify()`, or after `ms`. */
	wait(ms?: number): Promise<void> {
		return new Promise((resolve) => {
			const wake = () => {
				clearTimeout(timer)
				this.#waiting.delete(wake)
				resolve()
			}
			const timer = ms === undefined ? undefined : setTimeout(wake, ms)
			this.#waiting.add(wake)
		})
	}

	/** Resolves true as soon as `condition` holds after a change, false if it does not within `ms`. */
	async until(condition: () => boolean, ms: number): Promise<boolean> {
		const deadline = new Deadline(ms)
		while (!condition()) {
			const remaining = deadline.remainingMs()
			if (remaining === 0) return false
			await this.wait(remaining)
		}
		return true
	}
}

export function messageOf(error: unknown): string {
	return error instanceof Error ? error.message : String(error)
}
