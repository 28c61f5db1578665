import { describe, expect, it, test } from 'vitest';
import { AuthenticationWatch, parseAuthenticationRules } from '../../src/postgres/authentication.ts';
import type { ConninfoParameters } from '../../src/postgres/conninfo.ts';
import { Settings } from '../../src/postgres/conninfo-settings.ts';

const OK = [0, []] as const;
const PASSWORD = [3, []] as const;
const MD5 = [5, []] as const;
const GSS = [7, []] as const;
const SCRAM = [10, ['SCRAM-SHA-256']] as const;
const SCRAM_PLUS = [10, ['SCRAM-SHA-256-PLUS', 'SCRAM-SHA-256']] as const;
const OAUTH = [10, ['OAUTHBEARER']] as const;
const CONTINUE = [11, []] as const;
const FINAL = [12, []] as const;

type Request = readonly [code: number, mechanisms: readonly string[]];

/** The first objection, null when there is none. */
function judge(parameters: ConninfoParameters, encrypted: boolean, requests: readonly Request[]): string | null {
  const watch = new AuthenticationWatch(parseAuthenticationRules(new Settings(parameters)), encrypted);
  for (const [code, mechanisms] of requests) {
    const refused = watch.judge(code, mechanisms);
    if (refused !== null) return refused;
  }
  return null;
}

describe('AuthenticationWatch', () => {
  it.each([
    [{}, [OK]],
    [{}, [PASSWORD, OK]],
    [{}, [MD5, OK]],
    [{}, [SCRAM, CONTINUE, FINAL, OK]],
    [{ require_auth: 'scram-sha-256' }, [SCRAM, CONTINUE, FINAL, OK]],
    [{ require_auth: 'scram-sha-256,none' }, [OK]],
    [{ require_auth: '!password,!md5' }, [OK]],
    [{ channel_binding: 'require' }, [SCRAM_PLUS, CONTINUE, FINAL, OK]],
  ] as const)('with %j lets pass what is allowed', (parameters, requests) => {
    expect(judge(parameters, true, requests)).toBeNull();
  });

  it.each([
    [{ require_auth: 'scram-sha-256' }, [PASSWORD], /by password, which require_auth does not allow/],
    [{ require_auth: 'scram-sha-256' }, [OK], /no authentication, which require_auth does not allow/],
    [{ require_auth: '!password,!md5' }, [MD5], /by md5, which require_auth/],
    [{ require_auth: '!none' }, [OK], /no authentication/],
    [{ require_auth: 'none' }, [SCRAM], /by scram-sha-256, which require_auth/],
    [{ channel_binding: 'require' }, [SCRAM], /channel_binding=require/],
    [{ channel_binding: 'require' }, [PASSWORD], /channel_binding=require/],
    [{ channel_binding: 'require' }, [OK], /channel_binding=require/],
    [{}, [GSS], /by gss, which walwarden does not support/],
    [{}, [OAUTH], /OAUTHBEARER, which walwarden does not support/],
    [{}, [[99, []]], /unknown kind \(99\)/],
    // Somebody who doesn't know the password either.
    [{}, [SCRAM, CONTINUE, OK], /did not prove that it knows the password/],
  ] as const)('with %j refuses %j', (parameters, requests, words) => {
    expect(judge(parameters, true, requests)).toMatch(words);
  });

  test('channel binding without TLS is somebody in between', () => {
    expect(judge({}, false, [SCRAM_PLUS])).toMatch(/without TLS/);
  });
});

describe('parseAuthenticationRules', () => {
  test.each(['scram', 'md5,md5', '!md5,password', 'md5,!password', ''.padEnd(1, ',')])('refuses %j', (require_auth) => {
    expect(() => parseAuthenticationRules(new Settings({ require_auth }))).toThrow(/the value of require_auth/);
  });
});
