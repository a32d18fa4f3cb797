/** What the nodes of the moderation workflow are given. */
import { z } from 'zod'

export const userIdSchema = z.union([z.string().min(1), z.number()], {
	error: 'must be a non-empty string or a number',
})

export const userPostSchema = z.string({ error: 'must be a string (it may be empty)' })
