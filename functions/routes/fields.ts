/** Fields that several requests have. */
import { z } from '@hono/zod-openapi'

/** An id as Postgres, logs and URLs can carry it. */
export const identifier = (description: string) =>
	z
		.string()
		.min(1, 'must not be empty')
		.max(256, 'must not be longer than 256 characters')
		.refine(
			(id) => !id.includes('\u0000') && id.isWellFormed(),
			'must not contain NUL or half of a surrogate pair',
		)
		.openapi({ description })

/** Any JSON object, handed on as it was parsed: a record would be copied, and lose a key named `__proto__`. */
export const objectValue = z.custom<Record<string, unknown>>(
	(value) => typeof value === 'object' && value !== null && !Array.isArray(value),
	'must be an object',
)
