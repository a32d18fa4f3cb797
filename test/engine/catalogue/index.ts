/** Every case. */
import { batches } from './batches.js'
import type { Case } from './case.js'
import { data } from './data.js'
import { failures } from './failures.js'
import { loops } from './loops.js'
import { paths } from './paths.js'
import { subflows } from './subflows.js'
import { waits } from './waits.js'

export const catalogue: readonly Case[] = [
	...data,
	...paths,
	...failures,
	...loops,
	...batches,
	...subflows,
	...waits,
]
