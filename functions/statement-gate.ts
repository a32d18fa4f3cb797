/**
 * Back-pressure in front of a pool: no more statements under way than it has connections, a bounded number that wait
 * for one, and none that waits longer than its deadline. Without it the driver's own queue would take everything that
 * comes while Postgres is slow, and run it later, when nobody wants it any more.
 */
import { DeadlineError, withDeadline } from '../src/db/errors.js'
import { HttpProblem } from './problem.js'

export interface StatementGateOptions {
	/** Statements at once. */
	readonly slots: number
	/** Statements that wait for a slot at most. */
	readonly maxWaiting: number
	/** For waiting and running together, in ms. */
	readonly deadlineMs: number
}

/** A slot whose statement never ends (a connection into nowhere) is given to others after so long, in ms. */
const ABANDONED_AFTER_MS = 60_000

export class StatementGate {
	readonly #options: StatementGateOptions
	#free: number
	/** In the order of coming. */
	readonly #waiting = new Set<() => void>()

	constructor(options: StatementGateOptions) {
		this.#options = options
		this.#free = options.slots
	}

	/** @throws HttpProblem at once if too many wait; `DeadlineError`; what the statement throws */
	async run<T>(statement: () => PromiseLike<T>): Promise<T> {
		const { deadlineMs } = this.#options
		const startedAt = performance.now()
		await this.#enter()
		const running = (async () => statement())()
		this.#leaveAfter(running)
		return withDeadline('Postgres', Math.max(deadlineMs - (performance.now() - startedAt), 0), running)
	}

	async #enter(): Promise<void> {
		if (this.#free > 0) {
			this.#free -= 1
			return
		}
		const { deadlineMs, maxWaiting } = this.#options
		if (this.#waiting.size >= maxWaiting) {
			throw new HttpProblem(
				'unavailable',
				'All connections to Postgres are taken, and enough requests wait for one. Try again.',
			)
		}
		await new Promise<void>((resolve, reject) => {
			const enter = (): void => {
				clearTimeout(timer)
				resolve()
			}
			const timer = setTimeout(() => {
				this.#waiting.delete(enter)
				reject(new DeadlineError('Waiting for a connection to Postgres', deadlineMs))
			}, deadlineMs)
			this.#waiting.add(enter)
		})
	}

	#leaveAfter(running: Promise<unknown>): void {
		let left = false
		const leave = (): void => {
			if (left) return
			left = true
			clearTimeout(abandoned)
			const [next] = this.#waiting
			if (next === undefined) {
				this.#free += 1
			} else {
				this.#waiting.delete(next)
				next()
			}
		}
		const abandoned = setTimeout(leave, ABANDONED_AFTER_MS)
		running.then(leave, leave)
	}
}
