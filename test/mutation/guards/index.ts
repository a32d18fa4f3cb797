/** The guards of the engine, and who notices when one is gone. */
import type { Guard } from '../guard.js'
import { claimGuards } from './claims.js'
import { commitGuards } from './commits.js'
import { continuationGuards } from './continuations.js'
import { deliveryGuards } from './delivery.js'
import { doorGuards } from './doors.js'
import { joinGuards } from './joins.js'
import { securityGuards } from './security.js'
import { streamGuards } from './streams.js'
import { transactionGuards } from './transactions.js'

export const guards: readonly Guard[] = [
	...claimGuards,
	...commitGuards,
	...continuationGuards,
	...transactionGuards,
	...joinGuards,
	...deliveryGuards,
	...streamGuards,
	...doorGuards,
	...securityGuards,
]
