/** What every `Doorbell` that reaches anybody promises. */
import { randomUUID } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { Doorbell, Ring } from '../../src/ports/doorbell.js'
import { waitFor } from '../support/wait-for.js'

export interface DoorbellUnderTest {
	/** Two doorbells that reach each other, as two processes have them; twice the same one if there is only one. */
	open(prefix: string): readonly [Doorbell, Doorbell]
}

export function describeDoorbell(name: string, underTest: DoorbellUnderTest): void {
	describe(`A doorbell (${name})`, () => {
		let here: Doorbell
		let there: Doorbell
		let heard: Ring[]

		beforeEach(() => {
			;[here, there] = underTest.open(`test-${randomUUID()}`)
			heard = []
		})

		afterEach(async () => {
			await here.close()
			await there.close()
		})

		const listen = (doorbell: Doorbell): (() => void) => doorbell.listen((ring) => heard.push(ring))
		/** Rings until it is heard: a listener may need a moment to be connected. */
		const ringUntilHeard = (from: Doorbell): Promise<unknown> =>
			waitFor('a ring', () => {
				from.ring({ type: 'cancelled', runIds: ['probe'] })
				return heard.length > 0
			})
		const hasHeard = (ring: Ring): boolean =>
			heard.some((each) => JSON.stringify(each) === JSON.stringify(ring))

		it('is heard elsewhere, every kind of ring', async () => {
			listen(there)
			await ringUntilHeard(here)
			here.ring({ type: 'outbox' })
			here.ring({ type: 'cancelled', runIds: ['a', 'b'] })
			here.ring({ type: 'ended', runIds: ['c'] })
			await waitFor('all rings', () => hasHeard({ type: 'ended', runIds: ['c'] }))
			await waitFor('all rings', () => hasHeard({ type: 'outbox' }))
			expect(heard).toContainEqual({ type: 'outbox' })
			expect(heard.flatMap((ring) => (ring.type === 'cancelled' ? ring.runIds : []))).toEqual(
				expect.arrayContaining(['a', 'b']),
			)
		})

		it('is heard by its own process, once', async () => {
			listen(here)
			await ringUntilHeard(here)
			here.ring({ type: 'ended', runIds: ['once'] })
			await waitFor('the ring', () => hasHeard({ type: 'ended', runIds: ['once'] }))
			// What comes later has passed whatever would have come twice.
			here.ring({ type: 'ended', runIds: ['later'] })
			await waitFor('the later ring', () => hasHeard({ type: 'ended', runIds: ['later'] }))
			expect(
				heard.filter((ring) => ring.type === 'ended' && ring.runIds.includes('once')),
			).toHaveLength(1)
		})

		it('calls no listener before `ring` has returned', async () => {
			listen(here)
			here.ring({ type: 'outbox' })
			expect(heard).toEqual([])
			await waitFor('the ring', () => hasHeard({ type: 'outbox' }))
			expect(heard).toContainEqual({ type: 'outbox' })
		})

		it('is not heard any more after the listener has gone', async () => {
			const stop = listen(there)
			const others: Ring[] = []
			there.listen((ring) => others.push(ring))
			await ringUntilHeard(here)
			stop()
			stop()
			heard = []
			here.ring({ type: 'ended', runIds: ['after'] })
			await waitFor('the other listener', () => others.some((ring) => ring.type === 'ended'))
			expect(heard).toEqual([])
		})

		it('goes on when a listener throws', async () => {
			there.listen(() => {
				throw new Error('thrown by the test')
			})
			listen(there)
			await ringUntilHeard(here)
			expect(heard.length).toBeGreaterThan(0)
		})

		it('may be rung and listened to after it was closed, in vain', async () => {
			listen(here)
			await here.close()
			await here.close()
			here.ring({ type: 'outbox' })
			const stop = listen(here)
			stop()
			await new Promise(setImmediate)
			expect(heard).toEqual([])
		})
	})
}
