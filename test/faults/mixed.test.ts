/** Everything at once: mixed workflows under a random schedule of faults. The seed is printed; the same seed, the same faults. */
import { afterAll, beforeAll, test } from 'vitest'
import { checkHistory, expectSound } from './lab/checker.js'
import { faultsFor } from './lab/faults.js'
import { type Lab, openLab } from './lab/lab.js'
import { createRandom } from './lab/random.js'
import { createWorkload } from './lab/workload.js'

let lab: Lab
beforeAll(async () => {
	lab = await openLab()
})
afterAll(() => lab.close())

const FULL = process.env['FULL'] === '1'
const SEED = Number(process.env['SEED'] ?? 1)
const FAULTS = FULL ? 40 : 8

test('mixed workflows under a random schedule of faults end as they should', async () => {
	console.log(`seed ${SEED}`)
	await lab.supervise({ functions: 2, relay: 2, worker: 2 })
	const random = createRandom(SEED)
	const workload = createWorkload(lab, { seed: SEED })
	const faults = faultsFor(lab)
	for (let struck = 0; struck < FAULTS; struck += 1) {
		const fault = random.pick(faults)
		await Promise.all([workload.start(14), fault.strike(lab, random)])
	}
	await workload.finish({ deadlineMs: 240_000 })
	expectSound(
		await checkHistory(lab, { ledger: workload.ledger, minimumCompleted: workload.ledger.length / 2 }),
	)
}, 600_000)
