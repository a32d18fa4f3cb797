/** OpenWorkflow's workflows: the process that runs them and the client that starts them share their names. */
import { defineWorkflow } from 'openworkflow'

/** A run may have 1,000 steps, the first and the last one included. */
export const FAN_OUT = 998

const chain = defineWorkflow<{ size: number }, void>({ name: 'chain' }, async ({ input, step }) => {
	for (let i = 0; i < input.size; i++) await step.run({ name: `n${i}` }, () => 1)
})

const fanOut = defineWorkflow<{ size: number }, void>({ name: 'fan-out' }, async ({ input, step }) => {
	await step.run({ name: 'start' }, () => 1)
	await Promise.all(Array.from({ length: input.size }, (_, i) => step.run({ name: `w${i}` }, () => 1)))
	await step.run({ name: 'end' }, () => 1)
})

export const implementations = [chain, fanOut]

/** By workload. */
export const specs = new Map([
	['chain', { spec: chain.spec, input: { size: 3 } }],
	['fan-out', { spec: fanOut.spec, input: { size: FAN_OUT } }],
])
