/** Of this package, which is that of its HTTP API too; a test holds it against package.json. */
export const VERSION = '0.1.0'
