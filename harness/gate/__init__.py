"""Did a change make it worse?"""
